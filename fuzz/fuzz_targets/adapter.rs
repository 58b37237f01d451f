//! PEFT adapters: any settings, and any safetensors file whose header is put together from fields.
#![no_main]
use arbitrary::Arbitrary;
use lapwing_models::Class;
use lapwing_models::lora::Adapter;

#[derive(Arbitrary, Debug)]
struct Folder {
    config: Config,
    weights: Weights,
}

#[derive(Arbitrary, Debug)]
enum Config {
    Valid,
    Ranks(u8, f32),
    Json(Vec<(u8, u8)>),
    Text(String),
}

#[derive(Arbitrary, Debug)]
enum Weights {
    Raw(Vec<u8>),
    Header { header: String, data: Vec<u8> },
    Fields { tensors: Vec<Tensor>, data: u16, fill: u8 },
}

#[derive(Arbitrary, Debug)]
struct Tensor {
    part: u8,
    layer: u8,
    dtype: u8,
    shape: Vec<u8>,
    start: u16,
    len: u16,
}

const KEYS: [&str; 8] =
    ["peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_dora", "use_rslora", "bias"];
const VALUES: [&str; 10] =
    [r#""LORA""#, "4", "-1", "1e300", "null", "true", r#"{"q":2}"#, r#"{"(a|b)*":3}"#, "[1]", r#""none""#];
const PARTS: [&str; 6] = [
    "self_attn.q_proj.lora_A.weight",
    "self_attn.q_proj.lora_B.weight",
    "self_attn.q_proj.lora_magnitude_vector",
    "mlp.down_proj.lora_A.default.weight",
    "mlp.down_proj.lora_B.default.weight",
    "mlp.nothing.weight",
];
const DTYPES: [&str; 8] = ["F32", "F16", "BF16", "F64", "F8_E4M3", "F8_E5M2", "I32", "X"];

impl Config {
    fn text(&self) -> String {
        match self {
            Config::Valid => r#"{"peft_type":"LORA","r":4}"#.into(),
            Config::Ranks(r, alpha) => format!(r#"{{"peft_type":"LORA","r":{r},"lora_alpha":{alpha}}}"#),
            Config::Json(pairs) => {
                let pair = |&(key, value): &(u8, u8)| {
                    let (key, value) = (usize::from(key) % KEYS.len(), usize::from(value) % VALUES.len());
                    format!(r#""{}":{}"#, KEYS[key], VALUES[value])
                };
                format!("{{{}}}", pairs.iter().map(pair).collect::<Vec<_>>().join(","))
            }
            Config::Text(text) => text.clone(),
        }
    }
}

impl Weights {
    fn bytes(&self) -> Vec<u8> {
        let whole = |header: &str, data: &[u8]| {
            [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
        };
        match self {
            Weights::Raw(bytes) => bytes.clone(),
            Weights::Header { header, data } => whole(header, data),
            Weights::Fields { tensors, data, fill } => {
                let entry = |t: &Tensor| {
                    let (part, dtype) =
                        (usize::from(t.part) % PARTS.len(), usize::from(t.dtype) % DTYPES.len());
                    format!(
                        r#""base_model.model.model.layers.{}.{}":{{"dtype":"{}","shape":{:?},"data_offsets":[{},{}]}}"#,
                        t.layer,
                        PARTS[part],
                        DTYPES[dtype],
                        t.shape,
                        t.start,
                        u32::from(t.start) + u32::from(t.len)
                    )
                };
                let entries: Vec<_> = tensors.iter().map(entry).collect();
                whole(&format!("{{{}}}", entries.join(",")), &vec![*fill; (*data).into()])
            }
        }
    }
}

libfuzzer_sys::fuzz_target!(|folder: Folder| {
    let place = std::env::temp_dir().join(format!("lapwing-fuzz-adapter-{}", std::process::id()));
    std::fs::create_dir_all(&place).unwrap();
    std::fs::write(place.join("adapter_config.json"), folder.config.text()).unwrap();
    std::fs::write(place.join("adapter_model.safetensors"), folder.weights.bytes()).unwrap();
    if let Err(error) = Adapter::open(&place) {
        assert_eq!(error.class, Class::BadFile, "{error}");
        assert!(error.to_string().len() < 5000, "{error}");
    }
});
