//! Files as people write them.

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<File, Error> {
    File::parse(Path::new("f.yaml"), text.as_bytes())
}

const GOOD: &str = r#"
version: 1
forwards:
  db:
    context: prod
    namespace: shop
    target: svc/postgres
    ports: [5432, "15432:5433", 127.0.0.2:8080:http, "unix:/run/pg.sock:5432"]
  web:
    target: team/deploy/web
    ports:
      - 8080:http
    address: [localhost, 10.0.0.5]
    via: exec
    container: app
  cache: {target: redis, ports: [":6379"]}
groups:
  shop-all: [cache, backends, db]
  backends: [db, web]
"#;

#[test]
fn a_file_says_what_to_forward() {
    let file = parse(GOOD).unwrap();
    let [db, web, cache] = file.all().unwrap() else {
        panic!("{file:?}");
    };
    assert_eq!(
        (&db.name[..], db.target.to_string()),
        ("db", "shop/service/postgres".to_owned())
    );
    assert_eq!(db.target, "service_postgres.shop.prod.kpf".parse().unwrap());
    let ports: Vec<_> = db.ports.iter().map(PortSpec::to_string).collect();
    assert_eq!(
        ports,
        [
            "5432",
            "15432:5433",
            "127.0.0.2:8080:http",
            "unix:/run/pg.sock:5432"
        ]
    );
    assert_eq!((&db.addresses, &db.container, db.via), (&None, &None, None));
    assert_eq!(web.target.to_string(), "team/deployment/web");
    let addresses = [Address::Localhost, "10.0.0.5".parse().unwrap()];
    assert_eq!(web.addresses.as_deref(), Some(&addresses[..]));
    assert_eq!(
        (web.container.as_deref(), web.via),
        (Some("app"), Some(Via::Exec))
    );
    assert_eq!(cache.target.to_string(), "pod/redis");
}

#[test]
fn a_group_is_its_members_each_once() {
    let file = parse(GOOD).unwrap();
    let names = |name| -> Vec<&str> {
        let entries = file.named(name).unwrap();
        entries.iter().map(|entry| &entry.name[..]).collect()
    };
    assert_eq!(names("db"), ["db"]);
    assert_eq!(names("backends"), ["db", "web"]);
    assert_eq!(names("shop-all"), ["cache", "db", "web"]);
}

#[test]
fn the_files_of_the_documentation_are_right() {
    let readme = include_str!("../../README.md");
    let example = |text: &str, begin: &str, end: &str| {
        let (_, rest) = text.split_once(begin).expect(begin);
        let text = rest.split(end).next().unwrap_or_default().to_owned();
        let file = parse(&text).unwrap_or_else(|error| panic!("{text}\n{error}"));
        let names = |entries: &[&Entry]| -> Vec<String> {
            entries.iter().map(|entry| entry.name.clone()).collect()
        };
        assert_eq!(names(&file.named("shop").unwrap()), ["db", "web"]);
    };
    example(readme, "```yaml\n", "```");
    let source = include_str!("mod.rs").replace("//!", "");
    example(&source, "```yaml\n", "```");
    let help = crate::cli::Cli::parse_words(["kpf", "forward", "--help"].map(Into::into));
    let help = help.err().unwrap().to_string();
    example(&help, "The forwards file:\n", "\n\n");
}

#[test]
fn an_unknown_name_is_told_with_what_was_meant() {
    let file = parse(GOOD).unwrap();
    for (name, known) in [
        ("dbb", "did you mean `@db`?"),
        ("shop-lal", "did you mean `@shop-all`?"),
        (
            "something-else",
            "there are @backends, @cache, @db, @shop-all, @web",
        ),
    ] {
        assert_eq!(
            file.named(name).unwrap_err().to_string(),
            format!("`@{name}` is no forward and no group of the forwards file `f.yaml`: {known}")
        );
    }
    let empty = parse("version: 1").unwrap();
    let error = empty.all().unwrap_err().to_string();
    assert!(
        error.starts_with("the forwards file `f.yaml` has no forwards"),
        "{error}"
    );
    assert!(
        empty
            .named("x")
            .unwrap_err()
            .to_string()
            .ends_with("there are none")
    );
}

#[test]
fn every_error_has_its_place_and_what_is_allowed() {
    let entry =
        |lines: &str| format!("version: 1\nforwards:\n  a:\n    target: web\n    {lines}\n");
    let groups = |lines: &str| format!("{}groups:\n  {lines}\n", entry("ports: [80]"));
    let mut others = Vec::new();
    for (text, place, part) in [
        (String::new(), (1, 1), "it is empty: write `version: 1`"),
        (
            "forwards: {}".to_owned(),
            (1, 1),
            "missing field `version`: write `version: 1`",
        ),
        (
            "version: 2\nhooks: []".to_owned(),
            (1, 10),
            "version: 2 is unknown: this kpf reads version 1",
        ),
        (
            "version: \"1\"".to_owned(),
            (1, 10),
            "expected the number 1",
        ),
        ("version: one".to_owned(), (1, 10), "expected the number 1"),
        ("version: -1".to_owned(), (1, 10), "expected the number 1"),
        (
            "[]".to_owned(),
            (1, 1),
            "expected a map with `version`, `forwards` and `groups`",
        ),
        (
            "version: 1\nhooks: []".to_owned(),
            (2, 1),
            "unknown field `hooks`, expected one of `version`, `forwards`, `groups`",
        ),
        (
            "version: 1\nforwards: []".to_owned(),
            (2, 11),
            "expected a map of names",
        ),
        (
            "version: 1\nforwards: [".to_owned(),
            (3, 1),
            "did not find expected node content",
        ),
        (
            "version: 1\n\tforwards: {}".to_owned(),
            (2, 1),
            "a tab character",
        ),
        (
            "version: 1\nversion: 1".to_owned(),
            (1, 1),
            "duplicate field `version`",
        ),
        (
            "version: 1\n---\nversion: 1".to_owned(),
            (1, 1),
            "more than one document",
        ),
        (
            "version: 1\nforwards:\n  a: web".to_owned(),
            (3, 6),
            "expected a map with `target` and `ports`",
        ),
        (
            "version: 1\nforwards:\n  a:\n    target: b".to_owned(),
            (4, 5),
            "missing field `ports`",
        ),
        (
            "version: 1\nforwards:\n  a:\n    ports: [1]".to_owned(),
            (4, 5),
            "missing field `target`",
        ),
        (
            "version: 1\nforwards:\n  A_b: {}".to_owned(),
            (3, 3),
            "`A_b` is no name: a name has a-z, 0-9 and `-`",
        ),
        (
            "version: 1\nforwards:\n  \"\": {}".to_owned(),
            (3, 3),
            "`` is no name",
        ),
        (
            "version: 1\nforwards:\n  a: {target: b/c/d/e, ports: [1]}".to_owned(),
            (3, 15),
            "too many slashes",
        ),
        (
            entry("hook: x"),
            (5, 5),
            "unknown field `hook`, expected one of `context`, `namespace`, `target`",
        ),
        (entry("ports: 80"), (5, 12), "expected a list, as in [a, b]"),
        (
            entry("ports: []"),
            (5, 12),
            "the list is empty: write at least one",
        ),
        (
            entry("ports: [80, 8080:80:90]"),
            (5, 17),
            "invalid port format '8080:80:90': write REMOTE",
        ),
        (
            entry("ports:\n    - 80\n    - 0"),
            (7, 7),
            "remote port must be > 0",
        ),
        (
            entry("ports: [80]\n    address: [nowhere]"),
            (6, 15),
            "nowhere is not a valid IP",
        ),
        (
            entry("ports: [80]\n    address: []"),
            (6, 14),
            "the list is empty",
        ),
        (
            entry("ports: [80]\n    via: magic"),
            (6, 10),
            "unknown variant `magic`, expected one of `auto`, `portforward`, `exec`",
        ),
        (
            entry("ports: [80]\n    namespace: a/b"),
            (6, 16),
            "`a/b` is no namespace",
        ),
        (
            entry("ports: [80]\n    target: c"),
            (4, 5),
            "duplicate field `target`",
        ),
        (
            entry("ports: [80]\n  a: {target: c, ports: [1]}"),
            (6, 3),
            "`a` is there twice",
        ),
        (
            entry("ports: [80]\n  b: {namespace: x, target: y/pod/c, ports: [1]}"),
            (6, 18),
            "`y/pod/c` names another namespace than `x`",
        ),
        (
            entry("ports: [80]\n  b: {context: x, target: c.y.z.kpf, ports: [1]}"),
            (6, 16),
            "names the context `z` and not `x`",
        ),
        (groups("g: a"), (7, 6), "expected a list"),
        (groups("g: []"), (7, 6), "the list is empty"),
        (
            groups("a: [a]"),
            (7, 3),
            "`a` is a forward already: give the group another name",
        ),
        (groups("g: [a]\n  g: [a]"), (8, 3), "`g` is there twice"),
        (
            groups("g: [a, aa]"),
            (7, 10),
            "`aa` is no forward and no group: did you mean `a`?",
        ),
        (
            groups("g:\n  - a\n  - unheard-of"),
            (9, 5),
            "there are a, g",
        ),
        (
            groups("g: [a, g]"),
            (7, 10),
            "the group `g` holds itself: g > g; take one of them out",
        ),
        (
            groups("g: [a, h]\n  h: [i]\n  i: [a, h]"),
            (9, 10),
            "the group `h` holds itself: h > i > h",
        ),
    ] {
        let error = parse(&text).expect_err(&text).to_string();
        let (line, column) = place;
        let begin = format!("forwards file `f.yaml`, line {line}, column {column}: ");
        let one_place = !error.contains('\n') && !error.contains(&format!("line {line} column"));
        if !(error.starts_with(&begin) && error.contains(part) && one_place) {
            others.push(format!("{text}\n{begin}{part}\n{error}\n"));
        }
    }
    assert!(others.is_empty(), "{}", others.join("\n"));
    let error = File::parse(Path::new("f.yaml"), b"version: 1\nforw\xffards: {}").unwrap_err();
    assert_eq!(
        error.to_string(),
        "forwards file `f.yaml`, line 2, column 5: this is no UTF-8: save the file as UTF-8"
    );
}

#[test]
fn a_long_chain_of_groups_is_no_trouble() {
    let mut text = "version: 1\nforwards: {a: {target: web, ports: [1]}}\ngroups:\n".to_owned();
    for at in 0..20_000 {
        text += &format!("  g{at}: [g{}, a]\n", at + 1);
    }
    text += "  g20000: [a]\n";
    assert_eq!(parse(&text).unwrap().named("g0").unwrap().len(), 1);
    let error = parse(&text.replace("g20000: [a]", "g20000: [g0]")).unwrap_err();
    assert!(
        matches!(error, Error::Wrong { line: 20_004, .. }),
        "{error}"
    );
    assert!(error.to_string().len() < 600);
}

#[test]
fn the_default_file_is_where_configuration_is() {
    let path = |pairs: &[(&str, &str)]| {
        let environment: Environment = pairs.iter().copied().collect();
        default_path(&environment)
            .map(|path| path.to_string_lossy().into_owned())
            .ok()
    };
    let home = if cfg!(windows) { "USERPROFILE" } else { "HOME" };
    assert_eq!(
        path(&[(home, "/h")]).unwrap(),
        "/h/.config/kpf/forwards.yaml"
    );
    assert_eq!(
        path(&[(home, "/h"), ("XDG_CONFIG_HOME", "/x")]).unwrap(),
        "/x/kpf/forwards.yaml"
    );
    assert_eq!(
        path(&[(home, "/h"), ("XDG_CONFIG_HOME", "x")]).unwrap(),
        "/h/.config/kpf/forwards.yaml"
    );
    assert_eq!(path(&[]), None);
}

proptest! {
    #[test]
    fn any_bytes_are_a_file_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        one_line(&bytes)?;
    }

    /// A file that was good until somebody's cat walked over it.
    #[test]
    fn any_change_of_a_good_file_is_a_file_or_an_error(
        at in 0..GOOD.len(),
        length in 0..40usize,
        put in "[a-z0-9:@&*!|>{}\\[\\],'\"#%\\- \n\t]{0,12}",
    ) {
        let end = (at + length).min(GOOD.len());
        one_line(format!("{}{put}{}", &GOOD[..at], &GOOD[end..]).as_bytes())?;
    }
}

fn one_line(bytes: &[u8]) -> Result<(), TestCaseError> {
    match File::parse(Path::new("f.yaml"), bytes) {
        Ok(file) => {
            for entry in &file.entries {
                prop_assert!(!entry.ports.is_empty());
                prop_assert_eq!(file.named(&entry.name).unwrap(), [entry]);
            }
            for group in file.groups.keys() {
                prop_assert!(!file.named(group).unwrap().is_empty());
            }
        }
        Err(error) => prop_assert!(!error.to_string().contains('\n'), "{}", error),
    }
    Ok(())
}
