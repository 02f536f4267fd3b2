//! Rules over `Cargo.toml` files: the layers.

/// What a crate must not depend on, and why. Its tests may.
const FORBIDDEN: [(&str, &[&str], &str); 3] = [
    (
        "longwire-core",
        &[
            "tokio",
            "futures",
            "futures-util",
            "futures-core",
            "async-std",
            "rand",
            "getrandom",
            "fastrand",
            "tracing",
            "log",
            "metrics",
            "chrono",
            "time",
            "redb",
            "dashmap",
            "longwire",
            "longwire-broker",
        ],
        "the core is a pure state machine",
    ),
    ("longwire-proto", &["tokio", "futures", "futures-util", "longwire-core", "longwire-broker"], "no IO"),
    ("longwire", &["longwire-broker", "longwire-core", "redb", "axum"], "a client knows the wire alone"),
];

/// The name of the package, and its dependencies other than those of tests.
fn parse(manifest: &str) -> (String, Vec<String>) {
    let (mut section, mut name, mut dependencies) = (String::new(), String::new(), Vec::new());
    for line in manifest.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
        if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = header.to_owned();
            if let Some((_, dependency)) = header.split_once("dependencies.")
                && !header.contains("dev-dependencies")
            {
                dependencies.push(dependency.to_owned());
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        let key = key.trim().trim_matches('"');
        if section == "package" && key == "name" {
            name = value.trim().trim_matches('"').to_owned();
        }
        if section.ends_with("dependencies") && !section.ends_with("dev-dependencies") {
            dependencies.push(key.split('.').next().unwrap_or_default().to_owned());
        }
        if section.contains("dependencies")
            && !section.contains("dev-dependencies")
            && let Some((_, renamed)) = line.split_once("package")
        {
            dependencies.extend(renamed.split('"').nth(1).map(str::to_owned));
        }
    }
    (name, dependencies)
}

pub(crate) fn forbidden(manifest: &str) -> Vec<String> {
    let (name, dependencies) = parse(manifest);
    let rules = FORBIDDEN.iter().filter(|(of, ..)| *of == name);
    let found = rules.flat_map(|(of, list, why)| {
        let found = dependencies.iter().filter(|dependency| list.contains(&dependency.as_str()));
        found.map(move |dependency| format!("`{of}` must not depend on `{dependency}`: {why}"))
    });
    found.collect()
}

pub(crate) fn without_lints(manifest: &str) -> Vec<String> {
    let takes = manifest
        .split("[lints]")
        .nth(1)
        .is_some_and(|rest| rest.trim_start().starts_with("workspace = true"));
    let violation = (!takes).then(|| "`[lints] workspace = true` is missing".to_owned());
    violation.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbidden_dependencies_are_found_however_they_are_written() {
        let refused = |rest: &str| forbidden(&format!("[package]\nname = \"longwire-core\"\n\n{rest}")).len();
        assert_eq!(refused("[dependencies]\nbytes = \"1\"\ntokio.workspace = true"), 1);
        assert_eq!(refused("[dependencies]\ntokio = { version = \"1\" }"), 1);
        assert_eq!(refused("[dependencies]\nrt = { package = \"tokio\", version = \"1\" }"), 1);
        assert_eq!(refused("[dependencies.chrono]\nversion = \"0.4\""), 1);
        assert_eq!(refused("[target.'cfg(unix)'.dependencies]\ngetrandom = \"0.4\""), 1);
        assert_eq!(
            refused("[dependencies]\nbytes = \"1\" # not tokio\n\n[dev-dependencies]\ntokio = \"1\""),
            0
        );
        assert_eq!(forbidden("[package]\nname = \"longwire\"\n[dependencies]\nredb = \"4\"").len(), 1);
        assert_eq!(forbidden("[package]\nname = \"longwire-proto\"\n[dependencies]\ntokio = \"1\"").len(), 1);
        assert_eq!(
            forbidden("[package]\nname = \"longwire-broker\"\n[dependencies]\ntokio = \"1\"").len(),
            0
        );
    }

    #[test]
    fn lints_are_missed() {
        assert_eq!(without_lints("[package]\nname = \"a\"").len(), 1);
        assert_eq!(without_lints("[package]\n[lints]\nworkspace = true\n").len(), 0);
    }
}
