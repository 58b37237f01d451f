//! What goes to a terminal, and stop texts in a stream cut anywhere.
#![no_main]
use lapwing::text::{StopFinder, is_safe, safe};

libfuzzer_sys::fuzz_target!(|input: (String, Vec<String>, Vec<u8>)| {
    let (text, stops, cuts) = input;
    let shown = safe(&text);
    assert!(shown.chars().all(is_safe));
    assert!(!shown.contains(['\u{1b}', '\u{9b}', '\u{202e}', '\r', '\u{7}', '\u{8}']));
    assert_eq!(safe(&shown), shown);

    let mut finder = StopFinder::new(stops.iter().cloned());
    let (mut passed, mut found, mut rest) = (String::new(), None, text.as_str());
    let mut cuts = cuts.into_iter();
    while !rest.is_empty() && found.is_none() {
        let (now, later) =
            rest.split_at(rest.floor_char_boundary(usize::from(cuts.next().unwrap_or(255)).max(4)));
        let (out, stop) = finder.push(now);
        passed += &out;
        (found, rest) = (stop, later);
    }
    if found.is_none() {
        passed += &finder.finish();
        assert_eq!(passed, text);
        assert!(!stops.iter().any(|stop| !stop.is_empty() && text.contains(stop.as_str())));
    } else {
        assert!(text.starts_with(&passed));
    }
});
