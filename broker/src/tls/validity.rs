//! When a certificate is valid. It is the one thing that is read of a certificate besides its bytes, at a fixed place
//! (RFC 5280, section 4.1), which is no reason for a parser of everything else.

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The first and the last second of a certificate, in Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) from: u64,
    pub(super) until: u64,
}

impl Validity {
    /// That of a certificate in DER; `None` when it is none, or of a time before 1970.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let (certificate, _) = tagged(SEQUENCE, certificate)?;
        let (mut rest, _) = tagged(SEQUENCE, certificate)?;
        if rest.first() == Some(&VERSION) {
            rest = element(rest)?.rest;
        }
        // Serial number, algorithm, issuer.
        for _ in 0..3 {
            rest = element(rest)?.rest;
        }
        let (validity, _) = tagged(SEQUENCE, rest)?;
        let from = element(validity)?;
        let until = element(from.rest)?;
        Some(Self { from: seconds(&from)?, until: seconds(&until)? })
    }

    /// Whether the certificate is valid at this time.
    pub(super) fn holds(self, now: u64) -> bool {
        self.from <= now && now <= self.until
    }
}

struct Element<'d> {
    tag: u8,
    content: &'d [u8],
    rest: &'d [u8],
}

fn element(input: &[u8]) -> Option<Element<'_>> {
    let (&[tag, first], mut rest) = input.split_first_chunk::<2>()?;
    let length = if first < 0x80 {
        usize::from(first)
    } else {
        let (bytes, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
        // Four bytes of length are more than any certificate has.
        if bytes.len() > 4 {
            return None;
        }
        rest = after;
        bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte))
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some(Element { tag, content, rest })
}

fn tagged(tag: u8, input: &[u8]) -> Option<(&[u8], &[u8])> {
    element(input).filter(|found| found.tag == tag).map(|found| (found.content, found.rest))
}

fn seconds(time: &Element<'_>) -> Option<u64> {
    let text = std::str::from_utf8(time.content).ok()?;
    let digits = text.strip_suffix('Z').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let (year, rest) = match (time.tag, digits.len()) {
        (UTC_TIME, 12) => {
            let year: u64 = digits.get(..2)?.parse().ok()?;
            // RFC 5280, section 4.1.2.5.1.
            (if year < 50 { 2000 + year } else { 1900 + year }, digits.get(2..)?)
        }
        (GENERALIZED_TIME, 14) => (digits.get(..4)?.parse().ok()?, digits.get(4..)?),
        _ => return None,
    };
    let part = |at: usize| rest.get(at..at + 2).and_then(|part| part.parse::<u64>().ok());
    let (month, day) = (part(0)?, part(2)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let days = days(year, month, day)?;
    Some(days * 86_400 + part(4)? * 3_600 + part(6)? * 60 + part(8)?)
}

/// Days since 1970 of a date of the Gregorian calendar. A year is counted from March, so that a leap day is its last.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    const DAYS_FROM_YEAR_0_TO_1970: u64 = 719_468;
    let year = if month <= 2 { year.checked_sub(1)? } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day = year * 365 + year / 4 - year / 100 + year / 400 + day_of_year;
    day.checked_sub(DAYS_FROM_YEAR_0_TO_1970)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(tag: u8, text: &str) -> Option<u64> {
        seconds(&Element { tag, content: text.as_bytes(), rest: &[] })
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (tag, text, wanted) in [
            (UTC_TIME, "700101000000Z", 0),
            (UTC_TIME, "240229235959Z", 1_709_251_199),
            (UTC_TIME, "491231235959Z", 2_524_607_999),
            (GENERALIZED_TIME, "20500101000000Z", 2_524_608_000),
            (GENERALIZED_TIME, "20240301000000Z", 1_709_251_200),
        ] {
            assert_eq!(time(tag, text), Some(wanted), "{text}");
        }
        for (tag, text) in [
            (UTC_TIME, "500101000000Z"),
            (UTC_TIME, "20240301000000Z"),
            (UTC_TIME, "240301000000"),
            (UTC_TIME, "240001000000Z"),
            (UTC_TIME, "24030100000xZ"),
            (0x04, "240301000000Z"),
        ] {
            assert_eq!(time(tag, text), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_certificate_has_none() {
        let key = rcgen::KeyPair::generate().unwrap();
        let whole = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let whole: &[u8] = whole.der();
        assert!(Validity::of(whole).is_some());
        for length in 0..whole.len() {
            assert_eq!(Validity::of(&whole[..length]), None);
        }
    }
}
