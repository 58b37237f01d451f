//! Ways to end an answer: at every moment a text that would complete it.
//!
//! The grammar is followed byte by byte. From any place the next byte of an ending is chosen by rules
//! that know JSON (end a string, close what is open, take the shortest value); where they lead nowhere, the ways are
//! searched breadth first. What is found is kept, and stays valid while the answer grows inside a string, a
//! number or along it, so that a search is rare.
use llguidance::Matcher;

/// Bytes; longer endings are not looked for.
pub(super) const LONGEST: usize = 4096;
/// Ordinary characters that the rules add to one string before the search takes over.
const PATIENCE: usize = 256;
/// Places that one search visits at most, and places kept at each of its steps.
const VISITS: usize = 4000;
const BEAM: usize = 12;

/// An answer on its way through a grammar, and how it could end.
#[derive(Clone)]
pub(super) struct Closer {
    matcher: Matcher,
    place: Place,
    /// What would end the answer here; `None` when nobody knows.
    plan: Option<Vec<u8>>,
}

/// Where in a text the next byte comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Not in a JSON string.
    Outside,
    /// In a string.
    Inside,
    /// In a string, after a backslash.
    Escaped,
    /// In a text of no known form.
    Unknown,
}

impl Place {
    fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Unknown, _) => Self::Unknown,
            (Self::Outside, b'"') | (Self::Escaped, _) => Self::Inside,
            (Self::Inside, b'"') => Self::Outside,
            (Self::Inside, b'\\') => Self::Escaped,
            (same, _) => same,
        }
    }

    /// Bytes from the one that ends soonest; all others come after them.
    fn preferred(self) -> &'static [u8] {
        match self {
            Self::Outside => b"}],:ntf0123456789-\"[{",
            Self::Inside => b"\"ae0123456789 :-./@_T",
            Self::Escaped => b"n0",
            Self::Unknown => b"}])\";.\nae01 ",
        }
    }
}

impl Closer {
    /// At the start of an answer.
    pub(super) fn new(matcher: Matcher, json: bool) -> Result<Self, String> {
        let place = if json { Place::Outside } else { Place::Unknown };
        let mut closer = Self { matcher, place, plan: None };
        closer.plan = closer.search()?;
        Ok(closer)
    }

    /// The same with another matcher of the same grammar, at the same place.
    pub(super) fn with(self, matcher: Matcher) -> Self {
        Self { matcher, ..self }
    }

    /// What follows the grammar.
    pub(super) fn matcher(&mut self) -> &mut Matcher {
        &mut self.matcher
    }

    /// Bytes that would end the answer here, if a way is known.
    pub(super) fn plan(&self) -> Option<&[u8]> {
        self.plan.as_deref()
    }

    /// Whether nothing may follow.
    pub(super) fn is_complete(&self) -> bool {
        self.matcher.is_stopped()
    }

    /// Takes bytes of the answer, unless that leaves no way to end it that `fits`; tells whether it did. In a text of
    /// no known form an ending cannot be relied on, and is given up rather than the text.
    pub(super) fn push(&mut self, bytes: &[u8], fits: impl Fn(&[u8]) -> bool) -> Result<bool, String> {
        self.consume(bytes)?;
        let Some(plan) = self.plan.take() else { return Ok(true) };
        let before = self.place;
        self.place = bytes.iter().fold(before, |place, &byte| place.after(byte));
        let known = plan.strip_prefix(bytes).unwrap_or(&plan).to_vec();
        let next =
            if plan.starts_with(bytes) || self.ends_with(&known)? { Some(known) } else { self.search()? };
        self.plan = next.filter(|plan| fits(plan));
        if self.plan.is_some() || self.place == Place::Unknown {
            return Ok(true);
        }
        self.plan = Some(plan);
        self.place = before;
        self.back(bytes.len())?;
        Ok(false)
    }

    fn consume(&mut self, bytes: &[u8]) -> Result<(), String> {
        let ids: Vec<u32> = bytes.iter().map(|&byte| u32::from(byte)).collect();
        self.matcher.consume_tokens(&ids).map_err(|error| error.to_string())
    }

    fn back(&mut self, bytes: usize) -> Result<(), String> {
        self.matcher.rollback(bytes).map_err(|error| error.to_string())
    }

    /// Whether the answer may end here.
    pub(super) fn may_end(&mut self) -> Result<bool, String> {
        self.matcher.is_accepting().map_err(|error| error.to_string())
    }

    /// Whether the answer could end with these bytes.
    fn ends_with(&mut self, bytes: &[u8]) -> Result<bool, String> {
        let ids: Vec<u32> = bytes.iter().map(|&byte| u32::from(byte)).collect();
        let taken = self.matcher.try_consume_tokens(&ids).map_err(|error| error.to_string())?;
        let ends = taken == ids.len() && self.may_end()?;
        self.back(taken)?;
        Ok(ends)
    }

    /// The bytes that may come next, those that end soonest first.
    fn next(&mut self, place: Place) -> Result<Vec<u8>, String> {
        if self.matcher.is_stopped() {
            return Ok(Vec::new());
        }
        let mask = self.matcher.compute_mask().map_err(|error| error.to_string())?;
        let rank = |byte: u8| place.preferred().iter().position(|&p| p == byte).unwrap_or(usize::MAX);
        let mut bytes: Vec<u8> = (0..=u8::MAX).filter(|&byte| mask.is_allowed(byte.into())).collect();
        // Escapes only where there is nothing else: what they need next is not known.
        bytes.sort_by_key(|&byte| (rank(byte), byte == b'\\', byte));
        Ok(bytes)
    }

    /// A way to the end, if one is found.
    fn search(&mut self) -> Result<Option<Vec<u8>>, String> {
        let mut way = Vec::new();
        let ends = self.walk(&mut way)?;
        self.back(way.len())?;
        Ok(ends.then_some(way))
    }

    /// Adds bytes to `way` by the rules until the answer may end; tells whether that was reached.
    fn walk(&mut self, way: &mut Vec<u8>) -> Result<bool, String> {
        let mut place = self.place;
        // Where the string or number began that `way` is in, and how long the rules may make it.
        let mut value = (0, place);
        let mut patience = PATIENCE;
        while !self.may_end()? {
            if way.len() > LONGEST {
                return Ok(false);
            }
            let found = if place == Place::Unknown || way.len() - value.0 > patience {
                let long = way.split_off(value.0);
                self.back(long.len())?;
                let found = self.broad(value.1)?;
                if found.is_none() && place != Place::Unknown {
                    // Perhaps it must be long.
                    self.consume(&long)?;
                    way.extend(long);
                    patience = LONGEST;
                    continue;
                }
                place = value.1;
                found
            } else {
                self.next(place)?.first().map(|&byte| vec![byte])
            };
            let Some(found) = found else { return Ok(false) };
            self.consume(&found)?;
            for byte in found {
                let before = place;
                place = place.after(byte);
                way.push(byte);
                let number = matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
                if before == Place::Outside && !number || place == Place::Outside && before != place {
                    value = (way.len(), place);
                }
            }
        }
        Ok(true)
    }

    /// Searches breadth first for the shortest way out of a string or number, or in a text of no known form to its end.
    /// Of ways of one length after which the same may follow one is kept, as far as there are not too many.
    fn broad(&mut self, from: Place) -> Result<Option<Vec<u8>>, String> {
        let mut visits = 0;
        let mut ways = vec![(Vec::<u8>::new(), from)];
        while !ways.is_empty() && visits < VISITS {
            let mut longer: Vec<(Vec<u8>, Place, _)> = Vec::new();
            for (way, place) in ways {
                self.consume(&way)?;
                for byte in self.next(place)? {
                    visits += 1;
                    self.consume(&[byte])?;
                    let after = place.after(byte);
                    let next = self.next(after)?;
                    let out = match from {
                        Place::Unknown => self.may_end()?,
                        Place::Outside => self.may_end()? || next.iter().any(|byte| b"}],".contains(byte)),
                        Place::Inside | Place::Escaped => after == Place::Outside,
                    };
                    // What is forced tells apart most places at which the same bytes may come.
                    let follows = (next, self.matcher.compute_ff_bytes());
                    self.back(1)?;
                    let longer_way = || way.iter().copied().chain([byte]).collect::<Vec<u8>>();
                    if out {
                        self.back(way.len())?;
                        return Ok(Some(longer_way()));
                    }
                    let new = !follows.0.is_empty() && longer.iter().all(|(_, _, known)| *known != follows);
                    if new && longer.len() < BEAM {
                        longer.push((longer_way(), after, follows));
                    }
                }
                self.back(way.len())?;
            }
            ways = longer.into_iter().map(|(way, place, _)| (way, place)).collect();
        }
        Ok(None)
    }
}
