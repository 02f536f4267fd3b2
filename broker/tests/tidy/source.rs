//! Rules over Rust source.

/// Lines of one file, without its tests: more than this is two things.
const LINES_MAX: usize = 600;
/// What makes the outcome of a computation depend on more than its inputs.
const IMPURE: [&str; 9] = [
    "SystemTime",
    "HashMap",
    "HashSet",
    "RandomState",
    "thread_rng",
    "std::fs",
    "std::net",
    "std::thread",
    "std::env",
];

/// The source with comments, and the insides of literals, blanked; lines keep their numbers.
pub(crate) fn code(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out: Vec<char> = chars.clone();
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at);
        for place in at..end {
            if chars[place] != '\n' {
                out[place] = ' ';
            }
        }
        at = end.max(at + 1);
    }
    out.into_iter().collect()
}

/// Where the comment or literal that begins at `at` ends; `at` itself when none does.
fn literal_end(chars: &[char], at: usize) -> usize {
    let rest = &chars[at..];
    let in_word = at > 0 && is_word(chars[at - 1]);
    match rest {
        ['/', '/', ..] => at + rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
        ['/', '*', ..] => block_comment_end(chars, at),
        ['"', ..] => string_end(chars, at + 1),
        ['r', '"' | '#', ..] if !in_word => raw_string_end(chars, at, at + 1),
        ['b' | 'c', 'r', '"' | '#', ..] if !in_word => raw_string_end(chars, at, at + 2),
        ['\'', '\\', ..] => {
            let close = rest.iter().skip(3).position(|c| *c == '\'');
            at + close.map_or(rest.len(), |close| close + 4)
        }
        ['\'', _, '\'', ..] => at + 3,
        _ => at,
    }
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let (mut depth, mut at) = (0, start);
    while at < chars.len() {
        match chars[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] if depth == 1 => return at + 2,
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    at
}

fn string_end(chars: &[char], start: usize) -> usize {
    let mut at = start;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

fn raw_string_end(chars: &[char], start: usize, hashes_at: usize) -> usize {
    let hashes = chars[hashes_at..].iter().take_while(|c| **c == '#').count();
    if chars.get(hashes_at + hashes) != Some(&'"') {
        return start; // a raw identifier
    }
    let mut at = hashes_at + hashes + 1;
    while at < chars.len() {
        if chars[at] == '"' && chars[at + 1..].iter().take_while(|c| **c == '#').count() >= hashes {
            return at + 1 + hashes;
        }
        at += 1;
    }
    at
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The code with every item under `#[cfg(test)]` blanked, and how many lines those take.
fn without_tests(code: &str) -> (String, usize) {
    let mut out = code.to_owned();
    let mut lines = 0;
    while let Some(start) = ["#[cfg(test)]", "#[cfg(all(test"].iter().filter_map(|a| out.find(a)).min() {
        let end = item_end(&out, start);
        let item = &out[start..end];
        lines += item.lines().count();
        let blank: String = item.chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        out.replace_range(start..end, &blank);
    }
    (out, lines)
}

fn item_end(code: &str, start: usize) -> usize {
    let mut depth = 0;
    for (place, c) in code[start..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return start + place + 1,
            '}' => depth -= 1,
            ';' if depth == 0 => return start + place + 1,
            _ => {}
        }
    }
    code.len()
}

/// Modules in files of their own that are there for tests only, as their paths without `.rs`.
pub(crate) fn test_modules(path: &str, source: &str) -> Vec<String> {
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    let folder = match file {
        "mod.rs" | "lib.rs" | "main.rs" => folder.to_owned(),
        _ => path.trim_end_matches(".rs").to_owned(),
    };
    let code = code(source);
    let items = code.split("#[cfg(test)]").skip(1);
    let modules = items.filter_map(|item| {
        let declaration = item.split_once(';')?.0.trim_start();
        let declaration = declaration.trim_start_matches("pub(crate) ").trim_start_matches("pub ");
        let name = declaration.strip_prefix("mod ")?.trim();
        name.chars().all(is_word).then(|| format!("{folder}/{name}"))
    });
    modules.collect()
}

/// The number of the line at a byte.
fn line(text: &str, place: usize) -> usize {
    1 + text[..place].matches('\n').count()
}

/// Where `word` stands in the text as a whole word.
fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(word).map(|(place, _)| place).filter(move |place| {
        let before = text[..*place].chars().next_back();
        let after = text[place + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

pub(crate) fn too_long(source: &str) -> Vec<String> {
    let (_, tests) = without_tests(&code(source));
    let lines = source.lines().count() - tests;
    let excess = (lines > LINES_MAX).then(|| {
        format!("{lines} lines without tests; at most {LINES_MAX} are allowed: divide it by subject")
    });
    excess.into_iter().collect()
}

pub(crate) fn panics(source: &str) -> Vec<String> {
    let (code, _) = without_tests(&code(source));
    let found = [".unwrap()", ".expect("].into_iter().flat_map(|call| {
        code.match_indices(call)
            .map(|(place, call)| {
                format!("line {}: `{call}` outside tests; return an error instead", line(&code, place))
            })
            .collect::<Vec<_>>()
    });
    found.collect()
}

pub(crate) fn unfinished(source: &str) -> Vec<String> {
    // Spelt so that this file passes its own rule.
    let markers = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let found = markers.into_iter().flat_map(|marker| {
        words(source, marker).map(move |place| {
            format!("line {}: `{marker}`; finish it, or write down where it is kept", line(source, place))
        })
    });
    found.collect()
}

pub(crate) fn ignored_without_reason(source: &str) -> Vec<String> {
    let code = code(source);
    let attribute = concat!("#[ig", "nore]");
    let found = code.match_indices(attribute).map(|(place, _)| {
        format!("line {}: `{attribute}` without a reason: write `ignore = \"why\"`", line(&code, place))
    });
    found.collect()
}

/// Names with an upper-case letter, or macros' like, that are taken from the crate's root rather than from a module.
pub(crate) fn imports_through_root(source: &str) -> Vec<String> {
    let code = code(source);
    let mut violations = Vec::new();
    for (place, prefix) in code.match_indices("crate::") {
        if code[..place].chars().next_back().is_some_and(|c| is_word(c) || c == '$') {
            continue;
        }
        for name in first_segments(&code[place + prefix.len()..]) {
            if name.starts_with(|c: char| c.is_uppercase() || c == '*') {
                let line = line(&code, place);
                violations.push(format!(
                    "line {line}: `crate::{name}` goes through the crate's root; name the module that defines it"
                ));
            }
        }
    }
    violations
}

/// The first segments of a path, or of each path of a group in braces.
fn first_segments(path: &str) -> Vec<String> {
    let Some(group) = path.strip_prefix('{') else {
        return vec![first_segment(path)];
    };
    let (mut depth, mut segments, mut begins) = (0, Vec::new(), 0);
    for (place, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                segments.push(first_segment(group[begins..place].trim_start()));
                begins = place + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    segments
}

fn first_segment(path: &str) -> String {
    path.chars().take_while(|c| is_word(*c) || *c == '*').collect()
}

/// For the core: everything that would let equal inputs give unequal outputs.
pub(crate) fn impure(source: &str) -> Vec<String> {
    let (code, _) = without_tests(&code(source));
    let named = IMPURE.iter().flat_map(|word| {
        words(&code, word).map(|place| format!("line {}: `{word}`", line(&code, place))).collect::<Vec<_>>()
    });
    let clock = code.match_indices("std::time").filter(|(place, text)| {
        let rest = &code[place + text.len()..];
        !rest.starts_with("::Duration")
    });
    let clock = clock.map(|(place, _)| {
        format!(
            "line {}: `std::time`; only `std::time::Duration` is: time is an argument",
            line(&code, place)
        )
    });
    named.chain(clock).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_no_code() {
        let source = "let a = \"// \\\" x\"; // b\n/* c /* d */ e */ let f = r#\"\" g\"#;\nlet h = '\"'; let i: &'static str = \"j\";\nlet r#k = '\\'' ; l";
        let code = code(source);
        let left: Vec<&str> = code.split_whitespace().collect();
        let wanted = "let a = ; let f = ; let h = ; let i: &'static str = ; let r#k = ; l";
        assert_eq!(left, wanted.split_whitespace().collect::<Vec<_>>());
        assert_eq!(code.lines().count(), 4);
    }

    #[test]
    fn long_files_are_refused_and_their_tests_do_not_count() {
        let long = "fn f() {}\n".repeat(LINES_MAX);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "fn g() { \"}\"; }\n".repeat(LINES_MAX));
        assert_eq!(too_long(&format!("{long}{tests}")).len(), 0);
        assert_eq!(too_long(&format!("{long}fn h() {{}}\n{tests}")).len(), 1);
    }

    #[test]
    fn files_that_are_tests_are_known_by_their_declaration() {
        let source = "#[cfg(test)]\nmod model;\nmod other;\n#[cfg(test)]\nmod inner { mod x; }\n#[cfg(test)]\nuse a::b;";
        assert_eq!(test_modules("a/src/machine.rs", source), ["a/src/machine/model"]);
        assert_eq!(test_modules("a/src/lib.rs", source), ["a/src/model"]);
        assert_eq!(test_modules("a/src/lib.rs", "mod model;").len(), 0);
    }

    #[test]
    fn panics_are_refused_outside_tests_only() {
        let source = "/// `a.unwrap()`\nfn f() { a.unwrap(); b.expect(\"c\"); d.unwrap_or(1); }\n#[cfg(test)]\nmod t { fn g() { h.unwrap(); } }\nfn i() { j.unwrap(); }";
        let found = panics(source);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].starts_with("line 2:") && found[1].starts_with("line 5:"));
    }

    #[test]
    fn unfinished_work_is_refused() {
        let marked = format!("// {}: later\nlet {}X = 1;", concat!("TO", "DO"), concat!("XX", "X"));
        assert_eq!(unfinished(&marked).len(), 1);
        assert_eq!(unfinished("mktemp name.XXXXXX").len(), 0);
    }

    #[test]
    fn ignoring_needs_a_reason() {
        let bare = concat!("#[test]\n#[ig", "nore]\nfn f() {}");
        assert_eq!(ignored_without_reason(bare).len(), 1);
        assert_eq!(ignored_without_reason("#[test]\n#[ignore = \"takes an hour\"]\nfn f() {}").len(), 0);
    }

    #[test]
    fn imports_through_the_root_are_refused() {
        let refused = |source: &str| imports_through_root(source).len();
        assert_eq!(refused("use crate::Thing;"), 1);
        assert_eq!(refused("use crate::{module::Thing, Other, more::{A, B}};"), 1);
        assert_eq!(refused("use crate::*;"), 1);
        assert_eq!(refused("fn f(a: crate::Thing) {}"), 1);
        assert_eq!(refused("use crate::module::Thing;\nuse crate::{raw, wire};\nuse other_crate::Thing;"), 0);
        assert_eq!(refused("macro_rules! m { () => { $crate::Thing } }\n// use crate::Thing;"), 0);
    }

    #[test]
    fn impurity_is_refused() {
        assert_eq!(impure("use std::time::Instant;").len(), 1);
        assert_eq!(impure("use std::time::{Duration, SystemTime};").len(), 2);
        assert_eq!(impure("use std::collections::{HashMap, HashSet};").len(), 2);
        assert_eq!(impure("let x = rand::thread_rng();").len(), 1);
        assert_eq!(
            impure("// a HashMap has no order\nuse std::time::Duration;\nstruct HashMapped;").len(),
            0
        );
    }
}
