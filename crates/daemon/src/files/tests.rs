use super::*;
use std::fs;

fn directories(root: &Path, files: &[&str], ignore: &[&str]) -> Vec<String> {
    let text = |globs: &[&str]| -> Vec<String> { globs.iter().map(|glob| (*glob).to_owned()).collect() };
    let plan = Plan::make(&Globs::new(root.to_owned(), &text(files), &text(ignore)));
    plan.directories.iter().map(|path| path.strip_prefix(root).unwrap_or(path).display().to_string()).collect()
}

#[test]
fn directories_are_those_in_which_a_file_may_match() {
    let root = tempfile::tempdir().expect("directory");
    for path in ["src/deep/er", "src/.git/objects", "src/node_modules/x", "lib", "src/tmp/x", "src/out"] {
        fs::create_dir_all(root.path().join(path)).expect("directory");
    }
    fs::write(root.path().join("src/.gitignore"), "/out/\n").expect("file");
    assert_eq!(directories(root.path(), &["app.py"], &[]), [""]);
    assert_eq!(directories(root.path(), &["src/*.py"], &[]), ["src"]);
    assert_eq!(directories(root.path(), &["src/*/x.py"], &["src/tmp/**"]), ["src", "src/deep"]);
    assert_eq!(directories(root.path(), &["src/**/*.py"], &["src/tmp/**"]), ["src", "src/deep", "src/deep/er"]);
    // What is named is watched, whatever the rules above say of it.
    assert_eq!(directories(root.path(), &["src/out/*.js"], &[]), ["src/out"]);
}

#[test]
fn what_is_not_there_is_waited_for_above() {
    let root = tempfile::tempdir().expect("directory");
    let globs = Globs::new(root.path().to_owned(), &["src/app/**/*.py".to_owned()], &[]);
    let plan = Plan::make(&globs);
    assert!(plan.directories.is_empty());
    assert_eq!(plan.missing, BTreeSet::from([root.path().join("src/app")]));
    assert_eq!(plan.waiting, BTreeSet::from([root.path().to_owned()]));
    assert!(plan.hangs_on(&root.path().join("src"), true) && !plan.hangs_on(&root.path().join("other"), true));
}

#[test]
fn files_are_matched_relative_to_the_directory_of_the_service() {
    let globs = ["src/**/*.py", "./conf.toml", "../shared/*.json", "/etc/app/*.ini"].map(str::to_owned);
    let globs = Globs::new("/srv/app".into(), &globs, &["**/test_*".to_owned()]);
    let watched = |path: &str| globs.is_watched(Path::new(path));
    assert!(watched("/srv/app/src/a.py") && watched("/srv/app/src/deep/a.py") && watched("/srv/app/conf.toml"));
    assert!(watched("/srv/shared/a.json") && watched("/etc/app/a.ini"));
    assert!(!watched("/srv/app/src/a.txt") && !watched("/srv/app/src/test_a.py") && !watched("/srv/app/a.py"));
    assert!(!watched("/srv/app/src/.#a.py") && !watched("/srv/app/src/deep/.a.py.swp"));
}

#[test]
fn many_changes_are_one_and_those_that_never_end_are_told() {
    let mut changes = Changes::default();
    let debounce = Duration::from_millis(300);
    changes.add("/a".into(), debounce);
    changes.add("/b".into(), debounce);
    changes.add("/a".into(), debounce);
    assert_eq!((changes.paths.len(), changes.first.as_deref()), (2, Some(Path::new("/a"))));
    let (due, latest) = changes.due.expect("a time");
    assert!(due < latest && latest <= Instant::now() + Duration::from_secs(3));
    changes.due = Some((due, Instant::now()));
    changes.add("/c".into(), debounce);
    assert!(changes.due.is_some_and(|(due, latest)| latest <= due), "the border does not move");
}

#[test]
fn what_helps_is_named() {
    let refused = BTreeMap::from([
        (Errno::NOSPC.raw_os_error(), (2, PathBuf::from("/srv"))),
        (Errno::ACCESS.raw_os_error(), (1, PathBuf::from("/srv/secret"))),
    ]);
    let text = complaint(&refused, false).expect("a complaint");
    assert!(text.contains("2 directories cannot be watched") && text.contains("sysctl fs.inotify.max_user_watches="), "{text}");
    assert!(text.contains("1 directory cannot be watched (/srv/secret: Permission denied"), "{text}");
    assert_eq!(complaint(&BTreeMap::new(), false), None);
}
