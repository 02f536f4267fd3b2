//! Hand-made stories: each kind of violation is found, and what is only unusual is not.

use super::{Entry, Story, Taken, What, Written, violations};

fn plain(what: What) -> Entry {
    Entry { lease: None, what }
}

fn by(generation: u64, what: What) -> Entry {
    Entry { lease: Some(("coder".to_owned(), generation)), what }
}

fn claimed() -> Entry {
    plain(What::Claimed("coder".to_owned()))
}

fn ended(generation: u64) -> Entry {
    plain(What::LeaseEnded("coder".to_owned(), generation))
}

fn said(text: &str) -> What {
    What::Said(text.to_owned())
}

fn asked() -> Entry {
    plain(What::Asked("q".to_owned()))
}

fn answered(option: &str) -> Entry {
    plain(What::Answered { ask: "q".to_owned(), option: option.to_owned() })
}

fn opened(text: &str) -> What {
    What::Opened { message: "m".to_owned(), bytes: text.into() }
}

fn piece(at_byte: u64, text: &str, close: &str) -> What {
    What::Piece { message: "m".to_owned(), at_byte, bytes: text.into(), close: close.to_owned() }
}

fn answer(option: &str, taken: Taken) -> Story {
    Story { answers: vec![("q".to_owned(), option.to_owned(), taken)], ..Story::default() }
}

fn wrote(generation: u64, text: &str, written: Written) -> Story {
    let said = vec![("coder".to_owned(), generation, text.to_owned(), written)];
    Story { said, ..Story::default() }
}

fn lost(option: &str, offset: u64) -> Taken {
    Taken::Lost { option: option.to_owned(), offset }
}

#[track_caller]
fn finds(kind: &str, story: &Story, log: &[Entry]) {
    let found = violations(story, log);
    assert!(found.iter().any(|violation| violation.starts_with(kind)), "{kind} is not in {found:?}");
}

#[test]
fn what_is_right_is_not_found() {
    let log = [
        claimed(),
        by(0, asked().what),
        answered("yes"),
        by(0, opened("a")),
        by(0, piece(1, "b", "")),
        ended(0),
        plain(piece(2, "", "abandoned")),
        claimed(),
        by(7, said("x")),
        plain(opened("").clone()).renamed("other"),
    ];
    let mut story = answer("yes", Taken::Won);
    story.answers.push(("q".to_owned(), "no".to_owned(), lost("yes", 2)));
    story.heard.push(("q".to_owned(), "yes".to_owned()));
    story.claims = vec![("coder".to_owned(), 0, "ada".to_owned()), ("coder".to_owned(), 7, "bob".to_owned())];
    story.said = vec![
        ("coder".to_owned(), 7, "x".to_owned(), Written::Ok),
        ("coder".to_owned(), 0, "y".to_owned(), Written::Fenced),
    ];
    story.folded =
        vec![[("m".to_owned(), b"ab".to_vec()), ("other".to_owned(), Vec::new())].into_iter().collect()];
    assert_eq!(violations(&story, &log), Vec::<String>::new());
}

impl Entry {
    fn renamed(mut self, name: &str) -> Self {
        if let What::Opened { message, .. } = &mut self.what {
            *message = name.to_owned();
        }
        self
    }
}

#[test]
fn an_ask_has_one_answer() {
    let nothing = Story::default();
    finds("answered twice", &nothing, &[asked(), answered("yes"), answered("no")]);
    finds("an answer to nothing", &nothing, &[answered("yes")]);
    finds("asked twice", &nothing, &[asked(), asked()]);
    finds("another winner", &answer("no", Taken::Won), &[asked(), answered("yes")]);
    finds("another winner", &answer("no", Taken::Won), &[asked()]);
    finds("another winner", &answer("no", lost("maybe", 1)), &[asked(), answered("yes")]);
    finds("another winner", &answer("no", lost("yes", 2)), &[asked(), answered("yes")]);
    let heard = Story { heard: vec![("q".to_owned(), "no".to_owned())], ..Story::default() };
    finds("another answer", &heard, &[asked(), answered("yes")]);
}

#[test]
fn an_agent_has_one_holder_and_what_a_stale_one_wrote_is_nowhere() {
    let nothing = Story::default();
    finds("two holders", &nothing, &[claimed(), claimed()]);
    finds("fencing", &nothing, &[claimed(), ended(0), by(0, said("x"))]);
    finds("fencing", &nothing, &[claimed(), ended(0), claimed(), by(0, said("x"))]);
    finds("fencing", &nothing, &[by(0, said("x"))]);
    finds("an end of nothing", &nothing, &[claimed(), ended(0), ended(0)]);
    finds("fenced and there", &wrote(0, "x", Written::Fenced), &[claimed(), by(0, said("x"))]);
    finds("lost", &wrote(0, "x", Written::Ok), &[claimed()]);
    finds("lost", &wrote(0, "x", Written::Ok), &[claimed(), plain(said("x"))]);
    finds("said twice", &nothing, &[plain(said("x")), plain(said("x"))]);
    let claim = |holder: &str, generation| ("coder".to_owned(), generation, holder.to_owned());
    let two = Story { claims: vec![claim("ada", 0), claim("bob", 0)], ..Story::default() };
    finds("one lease for two", &two, &[claimed()]);
    let none = Story { claims: vec![claim("ada", 5)], ..Story::default() };
    finds("a claim that is not there", &none, &[claimed()]);
}

#[test]
fn a_message_is_what_its_pieces_are() {
    let nothing = Story::default();
    finds("misplaced", &nothing, &[plain(opened("a")), plain(piece(2, "b", ""))]);
    finds("a piece of nothing", &nothing, &[plain(piece(0, "b", ""))]);
    let closed = [plain(opened("a")), plain(piece(1, "", "complete")), plain(piece(1, "b", ""))];
    finds("a piece of what is closed", &nothing, &closed);
    finds("begun twice", &nothing, &[plain(opened("a")), plain(opened("b"))]);
    finds("left open", &nothing, &[claimed(), by(0, opened("a")), ended(0)]);
    let read = |text: &str| {
        let folded = vec![[("m".to_owned(), text.into())].into_iter().collect()];
        Story { folded, ..Story::default() }
    };
    let log = [plain(opened("a")), plain(piece(1, "b", ""))];
    for other in ["a", "abb", "ba"] {
        finds("folded otherwise", &read(other), &log);
    }
    finds("folded otherwise", &Story { folded: vec![[].into()], ..Story::default() }, &log);
    finds("folded otherwise", &read("ab"), &[]);
}
