//! Numbers of a bench as llama-bench takes them: lists `128,512`, ranges `1-8`, `1-8+2` and `1-8*2`.
use std::str::FromStr;

/// Numbers in the order given; never empty when parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers(pub Vec<usize>);

/// More would be a mistake, not a bench.
const MOST: usize = 1000;

impl FromStr for Numbers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut numbers = Vec::new();
        for part in text.split(',') {
            range(part.trim(), &mut numbers)?;
        }
        Ok(Self(numbers))
    }
}

/// Appends the numbers of one range (or the one number) to `numbers`.
fn range(text: &str, numbers: &mut Vec<usize>) -> Result<(), String> {
    let number = |text: &str| text.parse::<usize>().map_err(|_| format!("{text:?} is not a whole number"));
    let Some((first, rest)) = text.split_once('-') else {
        numbers.push(number(text)?);
        return Ok(());
    };
    let (last, grow): (&str, Box<dyn Fn(usize) -> usize>) = if let Some((last, step)) = rest.split_once('+') {
        let step = number(step)?;
        (last, Box::new(move |n| n.saturating_add(step)))
    } else if let Some((last, factor)) = rest.split_once('*') {
        let factor = number(factor)?;
        (last, Box::new(move |n| n.saturating_mul(factor)))
    } else {
        (rest, Box::new(|n| n + 1))
    };
    let (mut n, last) = (number(first)?, number(last)?);
    while n <= last {
        numbers.push(n);
        let next = grow(n);
        if next <= n || numbers.len() > MOST {
            return Err(format!("range {text} has no end, or more than {MOST} numbers"));
        }
        n = next;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Numbers;

    #[test]
    fn lists_and_ranges_are_those_of_llama_bench() {
        let numbers = |text: &str| text.parse::<Numbers>().map(|n| n.0);
        assert_eq!(numbers("128,512"), Ok(vec![128, 512]));
        assert_eq!(numbers("1-4"), Ok(vec![1, 2, 3, 4]));
        assert_eq!(numbers("1-8+3"), Ok(vec![1, 4, 7]));
        assert_eq!(numbers("1-8*2,16"), Ok(vec![1, 2, 4, 8, 16]));
        assert!(numbers("4-1").is_ok_and(|n| n.is_empty()));
        for bad in ["", "x", "1-", "0-8*2", "1-8+0", "1-9*1", "0-100000", "-3"] {
            assert!(numbers(bad).is_err(), "{bad}");
        }
    }
}
