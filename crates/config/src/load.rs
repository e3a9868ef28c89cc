//! Reading: the file, what it includes, the files with variables; then profiles, what is extended, and variables, until typed values can be read.

use crate::decode::{At, Decode, suggest};
use crate::expand::{Scope, Variables};
use crate::file::{File, Service};
use crate::files::Files;
use crate::node::{self, Entry, Node, Table, Value};
use crate::report::{Problems, Report};
use crate::source::{self, Source, Span};
use crate::{Request, check, dotenv, find, procfile, resolve, trust};
use stayput_model::config::InstanceConfig;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Most bytes of one file.
const FILE_MAX: usize = 1 << 20;
/// Most files that one configuration includes.
const FILES_MAX: usize = 64;
/// Most services: what one instance has been measured with, ten times over.
const SERVICES_MAX: usize = 10_000;
/// Keys of a service whose tables are laid over each other; all others replace.
const MERGED: [&str; 3] = ["env", "limits", "logs"];

/// What is known while a configuration is read.
pub(crate) struct Loader<'a> {
    pub(crate) request: &'a Request,
    pub(crate) files: &'a dyn Files,
    pub(crate) sources: Vec<Source>,
    pub(crate) problems: Problems,
    /// Variables of files that were read already.
    env_files: BTreeMap<PathBuf, Vec<Vec<u8>>>,
    /// The file was found by searching.
    found: bool,
}

/// A service as it stands after merging, with its own variables.
pub(crate) struct Merged {
    pub(crate) name: String,
    pub(crate) name_at: Span,
    pub(crate) at: Span,
    pub(crate) file: Service,
    /// The variables of the file and of the service, `NAME=value`.
    pub(crate) env: Vec<Vec<u8>>,
    /// What `command` and `exec` can use.
    pub(crate) variables: Variables,
    /// Some of its keys could not be read; what is wrong was noted.
    pub(crate) broken: bool,
}

pub(crate) fn load(request: &Request, files: &dyn Files) -> Result<InstanceConfig, Report> {
    let path = match &request.path {
        Some(path) => request.start_dir.join(path),
        None => find::find_in(&request.start_dir, files).ok_or_else(|| {
            let here = source::shown(&request.start_dir, Path::new(""));
            let hint = "write a stayput.toml, name a file with -f, or run one command: stayput run -- CMD";
            Report::nothing(format!("there is no {} in {here} or above it", find::NAMES.join(" and no ")), hint)
        })?,
    };
    let found = request.path.is_none();
    let mut loader = Loader { request, files, sources: Vec::new(), problems: Problems::default(), env_files: BTreeMap::new(), found };
    let shown = source::shown(&path, &request.start_dir);
    let text = loader.text(&path).map_err(|(message, hint)| Report::of(format!("{shown}: {message}"), hint))?;
    loader.sources.push(Source::new(path.clone(), &request.start_dir, text));
    let is_toml = path.extension().is_some_and(|kind| kind.eq_ignore_ascii_case("toml"));
    let config = if is_toml { loader.toml() } else { procfile::load(&mut loader) };
    match config {
        Some(config) if loader.problems.is_empty() => Ok(config),
        _ => Err(loader.problems.report(&loader.sources)),
    }
}

/// As if there were an empty file where the search begins.
pub(crate) fn nothing(request: &Request, files: &dyn Files) -> InstanceConfig {
    let source = Source::new(request.start_dir.join(find::NAMES[0]), &request.start_dir, String::new());
    let sources = vec![source];
    let loader = Loader { request, files, sources, problems: Problems::default(), env_files: BTreeMap::new(), found: true };
    resolve::instance(&File::default(), Vec::new(), false, &loader)
}

impl Loader<'_> {
    /// The text of a file that may be trusted.
    pub(crate) fn text(&self, path: &Path) -> Result<String, (String, String)> {
        let (bytes, facts) = self.files.read(path, FILE_MAX).map_err(|error| {
            let hint = match error.kind() {
                std::io::ErrorKind::IsADirectory => "name the file in it",
                std::io::ErrorKind::InvalidInput => "it must be a file on a disk, so that it can be read again",
                std::io::ErrorKind::PermissionDenied => "this user may not read it",
                _ => "check the path; it is relative to the file that names it",
            };
            let what = match error.kind() {
                std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
                std::io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
                std::io::ErrorKind::InvalidInput => "it is no regular file".to_owned(),
                _ => format!("it cannot be read: {error}"),
            };
            (what, hint.to_owned())
        })?;
        trust::check(path, facts, self.request.uid, self.found, self.files).map_err(|why| (why.message, why.hint))?;
        if bytes.len() > FILE_MAX {
            return Err(("it has more than 1 MiB: this is no configuration".to_owned(), "split it with include = [...]".to_owned()));
        }
        String::from_utf8(bytes).map_err(|error| {
            let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = before.split(|byte| *byte == b'\n').count();
            (format!("line {line} is not UTF-8"), "save it as UTF-8; other bytes cannot be written in TOML".to_owned())
        })
    }

    fn toml(&mut self) -> Option<InstanceConfig> {
        let mut stack = vec![self.sources[0].path.clone()];
        let mut root = self.document(0, &mut stack);
        if !self.problems.is_empty() {
            // What is not understood makes more mistakes look real: only the shape of the rest is looked at.
            let syntax = self.problems.len();
            self.shapes(&root);
            self.problems.drop_followers(syntax, &self.sources);
            return None;
        }
        self.shapes(&root);
        self.profile(&mut root);
        let base = self.base(&mut root);
        let mut services = self.services(&root);
        let variables = self.known(&base);
        for key in ["service", "template", "profile", "env", "env-file"] {
            root.remove(key);
        }
        let before = self.problems.len();
        node::expand_table(&mut root, Scope::Known(&variables), &mut self.problems);
        let whole = Node { at: Span { file: 0, start: 0, end: 0 }, value: Value::Table(root) };
        let file = File::decode(&whole, &mut self.problems).filter(|_| self.problems.len() == before);
        let merged: Vec<Merged> = services.drain(..).filter_map(|(entry, at)| self.merged(entry, at, &base)).collect();
        let accounts = resolve::accounts(&merged, self.files);
        let mut resolved = Vec::with_capacity(merged.len());
        for service in &merged {
            resolved.extend(resolve::service(service, &accounts, self));
        }
        let block = file.as_ref().and_then(|file| file.logs.as_ref()?.value.block.as_ref()).is_some_and(|block| block.value);
        let selected = check::check(resolved, block, &merged, self);
        Some(resolve::instance(&file?, selected?, false, self))
    }

    /// The document of a source, with what it includes.
    fn document(&mut self, index: usize, stack: &mut Vec<PathBuf>) -> Table {
        let text = self.sources[index].text.clone();
        let mut root = node::parse(&text, index as u16, &mut self.problems);
        let Some(include) = root.remove("include") else { return root };
        let mut node = include.node;
        let variables = Variables::new(&self.request.environment);
        node::expand_node(&mut node, Scope::Known(&variables), &mut self.problems);
        let Some(paths) = crate::decode::Many::<String>::decode(&node, &mut self.problems) else { return root };
        for path in paths.0 {
            if let Some(included) = self.include(&path, index, stack) {
                self.join(&mut root, included);
            }
        }
        root
    }

    fn include(&mut self, path: &At<String>, from: usize, stack: &mut Vec<PathBuf>) -> Option<Table> {
        let whole = self.sources[from].directory().join(&path.value);
        let real = self.files.canonical(&whole).unwrap_or_else(|_| whole.clone());
        if stack.contains(&real) || stack.contains(&whole) {
            self.problems.add(path.at, "this file includes itself").hint("take one of the includes out of the circle");
            return None;
        }
        if self.sources.len() >= FILES_MAX {
            self.problems.add(path.at, format!("more than {FILES_MAX} files")).hint("put services of one kind into one file");
            return None;
        }
        match self.text(&whole) {
            Ok(text) => {
                self.sources.push(Source::new(whole, &self.request.start_dir, text));
                stack.push(real);
                let table = self.document(self.sources.len() - 1, stack);
                stack.pop();
                Some(table)
            }
            Err((message, hint)) => {
                self.problems.add(path.at, format!("this file cannot be included: {message}")).hint(hint);
                None
            }
        }
    }

    /// Adds an included document as if its text stood here.
    fn join(&mut self, root: &mut Table, included: Table) {
        for entry in included.0 {
            let Some(own) = root.0.iter_mut().find(|own| own.key == entry.key) else {
                root.0.push(entry);
                continue;
            };
            let tables = ["service", "template", "profile", "env"].contains(&entry.key.as_str());
            match (&mut own.node.value, entry.node.value) {
                (Value::Table(own), Value::Table(more)) if tables => {
                    for entry in more.0 {
                        if let Some(first) = own.get(&entry.key) {
                            let what = format!("{} is defined twice", stayput_model::text::printable(&entry.key));
                            self.problems.add(entry.key_at, what).related(first.key_at, "first here");
                        } else {
                            own.0.push(entry);
                        }
                    }
                }
                _ => {
                    let what = format!("{} is said twice", stayput_model::text::printable(&entry.key));
                    self.problems.add(entry.key_at, what).related(own.key_at, "first here");
                }
            }
        }
    }

    /// Looks at keys and types of everything, also of templates and profiles that are not used; texts with variables are left out.
    fn shapes(&mut self, root: &Table) {
        let mut root = root.clone();
        node::expand_table(&mut root, Scope::Unknown, &mut self.problems);
        let whole = Node { at: Span { file: 0, start: 0, end: 0 }, value: Value::Table(root) };
        // The values are read again when they are complete; here only the problems count.
        let _ = File::decode(&whole, &mut self.problems);
    }

    /// Lays the wanted profile over the document.
    fn profile(&mut self, root: &mut Table) {
        let profiles = root.remove("profile");
        let Some(wanted) = &self.request.profile else { return };
        let known = profiles.as_ref().and_then(|entry| entry.node.table()).cloned().unwrap_or_default();
        let Some(profile) = known.get(wanted) else {
            let names: Vec<&str> = known.0.iter().map(|entry| entry.key.as_str()).collect();
            let near = suggest(wanted, names.iter().copied());
            let hint = match near {
                Some(near) => format!("did you mean {near}?"),
                None if names.is_empty() => "the file has no profiles: write [profile.NAME.service.SERVICE]".to_owned(),
                None => format!("profiles: {}", names.join(", ")),
            };
            self.problems.add(None, format!("there is no profile {}", stayput_model::text::printable(wanted))).hint(hint);
            return;
        };
        let Some(profile) = profile.node.table() else { return };
        for entry in &profile.0 {
            match (entry.key.as_str(), root.0.iter_mut().find(|own| own.key == entry.key)) {
                ("service", Some(own)) => {
                    let (Value::Table(own), Some(over)) = (&mut own.node.value, entry.node.table()) else { continue };
                    for service in &over.0 {
                        match (own.0.iter_mut().find(|own| own.key == service.key), service.node.table()) {
                            (Some(Entry { node: Node { value: Value::Table(own), .. }, .. }), Some(over)) => own.overlay(over, &MERGED),
                            (Some(_), _) => {}
                            (None, _) => own.0.push(service.clone()),
                        }
                    }
                }
                ("env", Some(own)) => {
                    if let (Value::Table(own), Some(over)) = (&mut own.node.value, entry.node.table()) {
                        own.overlay(over, &[]);
                    }
                }
                (_, Some(own)) => *own = entry.clone(),
                (_, None) => root.0.push(entry.clone()),
            }
        }
    }

    /// The variables of the whole file: those of its files, then its own.
    fn base(&mut self, root: &mut Table) -> Vec<Vec<u8>> {
        let mut own = Table(Vec::new());
        own.0.extend(root.get("env-file").cloned());
        own.0.extend(root.get("env").cloned());
        let mut entries = Vec::new();
        let mut known = Variables::new(&self.request.environment);
        self.variables(&own, &mut known, &mut entries);
        entries
    }

    /// Adds the variables that a table's `env-file` and `env` define.
    fn variables(&mut self, table: &Table, known: &mut Variables, entries: &mut Vec<Vec<u8>>) {
        for key in ["env-file", "env"] {
            let Some(entry) = table.get(key) else { continue };
            let mut node = entry.node.clone();
            node::expand_node(&mut node, Scope::Known(known), &mut self.problems);
            let found: Vec<Vec<u8>> = if key == "env" {
                let variables = crate::kinds::Variables::decode(&node, &mut self.problems).unwrap_or_default();
                variables.0.into_iter().map(|(name, value)| format!("{name}={value}").into_bytes()).collect()
            } else {
                let paths = crate::decode::Many::<String>::decode(&node, &mut self.problems);
                paths.map(|paths| paths.0).unwrap_or_default().iter().flat_map(|path| self.env_file(path)).collect()
            };
            known.lay_over(&found);
            entries.extend(found);
        }
    }

    fn env_file(&mut self, path: &At<String>) -> Vec<Vec<u8>> {
        let whole = self.sources[usize::from(path.at.file)].directory().join(&path.value);
        if let Some(entries) = self.env_files.get(&whole) {
            return entries.clone();
        }
        let entries = match self.text(&whole) {
            Ok(text) => match dotenv::parse(&text) {
                Ok(entries) => entries,
                Err((line, why)) => {
                    let what = format!("line {line} of this file with variables is wrong: {why}");
                    self.problems.add(path.at, what).hint("one NAME=value per line; values with blanks, # or several lines in quotes");
                    Vec::new()
                }
            },
            Err((message, hint)) => {
                self.problems.add(path.at, format!("this file with variables cannot be used: {message}")).hint(hint);
                Vec::new()
            }
        };
        self.env_files.insert(whole, entries.clone());
        entries
    }

    fn known(&self, base: &[Vec<u8>]) -> Variables {
        let mut variables = Variables::new(&self.request.environment);
        variables.lay_over(base);
        variables
    }

    /// The services with what they extend, each with the place of its table.
    fn services(&mut self, root: &Table) -> Vec<(Entry, Span)> {
        let tables = |key: &str| root.get(key).and_then(|entry| entry.node.table()).cloned().unwrap_or_default();
        let (services, templates) = (tables("service"), tables("template"));
        if services.0.len() > SERVICES_MAX {
            let at = services.0[SERVICES_MAX].key_at;
            self.problems.add(at, format!("more than {SERVICES_MAX} services")).hint("run several instances");
            return Vec::new();
        }
        let index: BTreeMap<&str, &Entry> = services.0.iter().chain(&templates.0).map(|entry| (entry.key.as_str(), entry)).collect();
        let mut complete = Vec::with_capacity(services.0.len());
        for entry in &services.0 {
            if let Err(wrong) = crate::value::name(&entry.key) {
                self.problems.wrong(entry.key_at, wrong);
                continue;
            }
            if let Some(table) = self.extended(entry, &index) {
                let at = entry.node.at;
                complete.push((Entry { node: Node { at, value: Value::Table(table) }, ..entry.clone() }, at));
            }
        }
        complete
    }

    /// The table of a service over those that it extends.
    fn extended(&mut self, service: &Entry, index: &BTreeMap<&str, &Entry>) -> Option<Table> {
        let mut chain = vec![(service.key.as_str(), service.node.table()?)];
        while let Some(entry) = chain.last().and_then(|(_, table)| table.get("extends")) {
            let Value::Text(name) = &entry.node.value else { return None };
            if chain.iter().any(|(above, _)| above == name) {
                self.problems.add(entry.node.at, "this service extends itself").hint("take one extends out of the circle");
                return None;
            }
            let Some((key, base)) = index.get_key_value(name.as_str()) else {
                let near = suggest(name, index.keys().copied());
                let hint = near.map_or("write it as [template.NAME]".to_owned(), |near| format!("did you mean {near}?"));
                self.problems.add(entry.node.at, "there is no such service or template").hint(hint);
                return None;
            };
            if chain.len() > 16 {
                self.problems.add(entry.node.at, "more than 16 services that extend each other").hint("extend a common template");
                return None;
            }
            chain.push((key, base.node.table()?));
        }
        let mut whole = Table::default();
        for (_, table) in chain.iter().rev() {
            // command and shell are two ways to say one thing.
            for (one, other) in [("command", "shell"), ("shell", "command")] {
                if table.get(one).is_some() && table.get(other).is_none() {
                    whole.remove(other);
                }
            }
            whole.overlay(table, &MERGED);
        }
        whole.remove("extends");
        Some(whole)
    }

    /// A service with its variables put in and its values read.
    fn merged(&mut self, mut entry: Entry, at: Span, base: &[Vec<u8>]) -> Option<Merged> {
        let Value::Table(table) = &mut entry.node.value else { return None };
        let before = self.problems.len();
        let mut variables = self.known(base);
        let mut env = base.to_vec();
        self.variables(table, &mut variables, &mut env);
        table.remove("env");
        table.remove("env-file");
        node::expand_table(table, Scope::Known(&variables), &mut self.problems);
        let file = Service::decode(&entry.node, &mut self.problems)?;
        let broken = self.problems.len() > before;
        Some(Merged { name: entry.key, name_at: entry.key_at, at, file, env, variables, broken })
    }
}
