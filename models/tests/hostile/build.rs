//! A GGUF file as data in which every field can be made wrong.

/// A whole file. [`File::bytes`] writes exactly what is here, be it consistent or not.
#[derive(Clone)]
pub struct File {
    pub magic: [u8; 4],
    pub version: u32,
    /// Instead of the true number.
    pub n_tensors: Option<u64>,
    /// Instead of the true number.
    pub n_keys: Option<u64>,
    pub keys: Vec<Key>,
    pub tensors: Vec<Tensor>,
    pub alignment: usize,
    pub data: Vec<u8>,
}

#[derive(Clone)]
pub struct Key {
    pub name: Vec<u8>,
    /// Instead of the true length.
    pub len: Option<u64>,
    pub value: V,
}

/// A value; `Raw` and `Array` may lie.
#[derive(Clone)]
pub enum V {
    U32(u32),
    I32(i32),
    U64(u64),
    F32(f32),
    Bool(u8),
    Str(Vec<u8>),
    /// A string of announced length.
    LongStr(u64, Vec<u8>),
    /// Type id and bytes.
    Raw(u32, Vec<u8>),
    /// Element type id, announced count and bytes.
    Array(u32, u64, Vec<u8>),
}

#[derive(Clone)]
pub struct Tensor {
    pub name: Vec<u8>,
    /// Instead of the true number.
    pub n_dims: Option<u32>,
    pub dims: Vec<u64>,
    pub ty: u32,
    pub offset: u64,
}

pub fn key(name: &str, value: V) -> Key {
    Key { name: name.into(), len: None, value }
}

pub fn tensor(name: &str, dims: &[u64], ty: u32, offset: u64) -> Tensor {
    Tensor { name: name.into(), n_dims: None, dims: dims.to_vec(), ty, offset }
}

/// Strings as the elements of an array.
pub fn strings(all: &[&[u8]]) -> Vec<u8> {
    all.iter().flat_map(|s| [&(s.len() as u64).to_le_bytes()[..], s].concat()).collect()
}

impl File {
    /// A small valid file that uses most kinds of values, and two tensors.
    pub fn valid() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            n_tensors: None,
            n_keys: None,
            keys: vec![
                key("general.architecture", V::Str(b"llama".to_vec())),
                key("general.alignment", V::U32(64)),
                key("a.number", V::F32(1.5)),
                key("a.flag", V::Bool(1)),
                key("a.list", V::Array(5, 2, [7i32.to_le_bytes(), (-7i32).to_le_bytes()].concat())),
                key("a.words", V::Array(8, 3, strings(&[b"one", "zwölf".as_bytes(), b""]))),
            ],
            tensors: vec![tensor("a.weight", &[8, 2], 0, 0), tensor("b.weight", &[32, 2], 2, 64)],
            alignment: 64,
            data: vec![0; 64 + 36],
        }
    }

    /// The same with a change.
    pub fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut file = Self::valid();
        change(&mut file);
        file
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.write().0
    }

    /// The bytes, and where each field ends.
    fn write(&self) -> (Vec<u8>, Vec<(usize, String)>) {
        let mut out = Vec::new();
        let mut ends = Vec::new();
        let mut put = |bytes: &[u8], field: String| {
            out.extend_from_slice(bytes);
            ends.push((out.len(), field));
        };
        put(&self.magic, "magic".into());
        put(&self.version.to_le_bytes(), "version".into());
        put(&self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes(), "number of tensors".into());
        put(&self.n_keys.unwrap_or(self.keys.len() as u64).to_le_bytes(), "number of keys".into());
        for (i, key) in self.keys.iter().enumerate() {
            put(&key.len.unwrap_or(key.name.len() as u64).to_le_bytes(), format!("length of key {i}"));
            put(&key.name, format!("key {i}"));
            let (id, fields) = key.value.fields();
            put(&id.to_le_bytes(), format!("type of value {i}"));
            for (n, field) in fields.iter().enumerate() {
                put(field, format!("field {n} of value {i}"));
            }
        }
        for (i, t) in self.tensors.iter().enumerate() {
            put(&(t.name.len() as u64).to_le_bytes(), format!("length of tensor name {i}"));
            put(&t.name, format!("tensor name {i}"));
            put(&t.n_dims.unwrap_or(t.dims.len() as u32).to_le_bytes(), format!("dimensions of tensor {i}"));
            for (n, dim) in t.dims.iter().enumerate() {
                put(&dim.to_le_bytes(), format!("dimension {n} of tensor {i}"));
            }
            put(&t.ty.to_le_bytes(), format!("type of tensor {i}"));
            put(&t.offset.to_le_bytes(), format!("offset of tensor {i}"));
        }
        if !self.tensors.is_empty() || !self.data.is_empty() {
            let padded = out.len().next_multiple_of(self.alignment);
            out.resize(padded, 0);
            ends.push((padded, "padding".into()));
            out.extend(&self.data);
        }
        (out, ends)
    }
}

impl V {
    /// Type id and the fields behind it.
    fn fields(&self) -> (u32, Vec<Vec<u8>>) {
        match self {
            V::U32(v) => (4, vec![v.to_le_bytes().to_vec()]),
            V::I32(v) => (5, vec![v.to_le_bytes().to_vec()]),
            V::U64(v) => (10, vec![v.to_le_bytes().to_vec()]),
            V::F32(v) => (6, vec![v.to_le_bytes().to_vec()]),
            V::Bool(v) => (7, vec![vec![*v]]),
            V::Str(s) => (8, vec![(s.len() as u64).to_le_bytes().to_vec(), s.clone()]),
            V::LongStr(n, s) => (8, vec![n.to_le_bytes().to_vec(), s.clone()]),
            V::Raw(id, bytes) => (*id, vec![bytes.clone()]),
            V::Array(id, n, bytes) => {
                (9, vec![id.to_le_bytes().to_vec(), n.to_le_bytes().to_vec(), bytes.clone()])
            }
        }
    }
}

/// The valid file cut at the end of each field, one byte before it, and within the data.
pub fn truncations() -> Vec<(String, Vec<u8>)> {
    let (bytes, ends) = File::valid().write();
    let mut cuts = Vec::new();
    for (end, field) in ends {
        cuts.push((format!("cut after {field}"), bytes[..end].to_vec()));
        cuts.push((format!("cut in {field}"), bytes[..end - 1].to_vec()));
    }
    cuts.push(("cut in the data".into(), bytes[..bytes.len() - 1].to_vec()));
    // Cutting an empty string in front of its end removes a byte of what came before: all are different.
    cuts.dedup_by(|a, b| a.1 == b.1);
    cuts
}
