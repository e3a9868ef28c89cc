//! The keys of `stayput.toml`: what may be written, in which form, and what it means. The doc comments are what editors show.

use crate::decode::{At, Many, Named, table};
use crate::kinds::{
    AfterList, Command, DashboardListen, EnvFile, Glob, Limit, Listen, Mask, Name, Percent, PolicyWord, ReadyForm, Regex, RestartForm,
    Schedule, Shell, Signal, Size, StopForm, Tasks, Time, User, Variables, WatchForm, WebHost, WebPath,
};

table! {
    /// The whole file.
    #[schemars(title = "stayput.toml")]
    #[expect(clippy::struct_field_names, reason = "env-file is the key's name")]
    #[expect(dead_code, reason = "what is merged in the tree is read here for its shape and for the schema")]
    "the file" File {
        /// Name of the instance; without it that of the directory.
        name: Name,
        /// Other files, read as if their text stood here. Paths are relative to this file.
        include: Many<String>,
        /// Variables of all services.
        env: Variables,
        /// Files with variables of all services, one NAME=value per line.
        env_file: Many<EnvFile>,
        /// The web dashboard.
        dashboard: DashboardForm,
        /// Where output is kept, and how much of it.
        logs: Logs,
        /// The services by name.
        service: Named<Service>,
        /// What services can extend; nothing of it is started.
        template: Named<Service>,
        /// Changes that are made when this profile is asked for.
        profile: Named<Profile>,
    }
}

table! {
    /// Changes that a profile makes.
    #[expect(dead_code, reason = "what is merged in the tree is read here for its shape and for the schema")]
    "a profile" Profile {
        /// Variables of all services.
        env: Variables,
        /// Files with variables of all services.
        env_file: Many<EnvFile>,
        /// Services that are added, or whose keys are replaced.
        service: Named<Service>,
    }
}

table! {
    /// One service.
    #[expect(dead_code, reason = "what is merged in the tree is read here for its shape and for the schema")]
    "a service" Service {
        /// The service or template whose keys count where this one has none.
        extends: String,
        /// The command, unmodified: a text, split into words like a shell does but without one, or a list of words.
        command: Command,
        /// A command line for /bin/sh, with its variables, pipes and redirections.
        shell: Shell,
        /// Working directory, relative to this file; without it the directory of this file.
        cwd: String,
        /// Variables of this service.
        env: Variables,
        /// Files with variables of this service, one NAME=value per line; `env` wins.
        env_file: Many<EnvFile>,
        /// What is held before the first start: a port, an address with a port, or a list of them.
        port: Many<Listen>,
        /// When a new generation takes over: "accept" (a probe connection was accepted), "notify", "http:/path", "log:REGEX", or a table.
        ready: ReadyForm,
        /// How long old connections may live on after a restart.
        drain: Time,
        /// How it is stopped: a signal, a table, or a list of steps.
        stop: StopForm,
        /// What happens when it ends by itself: "always", "on-failure", "never", or a table.
        restart: RestartForm,
        /// Whether the new generation starts beside the old one. false: stop, then start; connections wait.
        overlap: bool,
        /// How long a new generation is on probation: if it fails, the old one takes over again.
        soak: Time,
        /// How long the ports are held while nobody accepts.
        hold: Time,
        /// The services that must be ready (tasks: completed) before this one starts.
        after: AfterList,
        /// "service": it stays; "task": it runs to its end.
        kind: KindWord,
        /// When a task runs: five fields of cron (minute hour day month weekday) in local time.
        schedule: Schedule,
        /// Copies that share the ports.
        replicas: Replicas,
        /// It is not started unless it is asked for by name.
        disabled: bool,
        /// Who it runs as: a name, or a number.
        user: User,
        /// Its group; without it that of the user.
        group: User,
        /// Mask of the modes of files that it creates, in octal: "022".
        umask: Mask,
        /// Limits of its process tree (memory, cpu, tasks) and of each process.
        limits: Limits,
        /// A check that goes on while it serves; failures restart it.
        health: Health,
        /// Files whose change restarts it: globs relative to the working directory, or a table.
        watch: WatchForm,
        /// What of its output is kept.
        logs: ServiceLogs,
        /// Give it a terminal: most programs write each line at once then, and in colour.
        tty: bool,
    }
}

table! {
    /// How to tell that a new generation is ready.
    "ready" Ready {
        /// A probe connection to each of its listeners was accepted: the default.
        accept: bool,
        /// A GET of this path is answered with 2xx or 3xx.
        http: WebPath,
        /// The Host header of that GET.
        host: WebHost,
        /// It says READY=1 on its NOTIFY_SOCKET.
        notify: bool,
        /// A line of its output matches this regular expression.
        log: Regex,
        /// How long it may take.
        timeout: Time,
    }
}

table! {
    /// How a service is stopped.
    "stop" Stop {
        /// The signal that asks it to stop.
        signal: Signal,
        /// How long after the signal the rest is killed.
        grace: Time,
    }
}

table! {
    /// One step of a stop.
    "a step of stop" StopStep {
        /// The signal.
        signal: Signal,
        /// How long to wait before the next step; after the last one, before the rest is killed.
        wait: Time,
    }
}

table! {
    /// What happens when a service ends by itself.
    "restart" Restart {
        /// "always", "on-failure" or "never".
        policy: PolicyWord,
        /// Give up after this many starts ...
        starts: Starts,
        /// ... within this time.
        within: Time,
    }
}

table! {
    /// Limits of a service: memory, cpu and tasks of the whole process tree, the others of each process as setrlimit(2) has them.
    /// A pair is written "soft:hard"; "unlimited" is none.
    "limits" Limits {
        /// Memory of the tree, like "512M".
        memory: Size,
        /// Processor time of the tree: "50%" is half a core, "200%" two.
        cpu: Percent,
        /// Processes and threads of the tree.
        tasks: Tasks,
        /// Bytes of address space.
        r#as: Limit,
        /// Bytes of a core file.
        core: Limit,
        /// Seconds of processor time.
        cpu_time: Limit,
        /// Bytes of data.
        data: Limit,
        /// Bytes of a file that it writes.
        fsize: Limit,
        /// Bytes of locked memory.
        memlock: Limit,
        /// Bytes in message queues.
        msgqueue: Limit,
        /// Ceiling of its nice value, as 20 - nice.
        nice: Limit,
        /// Open files.
        nofile: Limit,
        /// Processes of its user.
        nproc: Limit,
        /// Ceiling of its real-time priority.
        rtprio: Limit,
        /// Microseconds of real-time processor time without a pause.
        rttime: Limit,
        /// Queued signals of its user.
        sigpending: Limit,
        /// Bytes of stack.
        stack: Limit,
    }
}

table! {
    /// A check that goes on while a service serves. One of http, tcp and exec.
    "health" Health {
        /// A GET of this path is answered with 2xx or 3xx.
        http: WebPath,
        /// The Host header of that GET.
        host: WebHost,
        /// true: a connection is accepted.
        tcp: bool,
        /// A command ends with status 0.
        exec: Command,
        /// Which of its ports is asked.
        port: PortNumber,
        /// Time between two checks.
        every: Time,
        /// How long one may take; then it is killed, whole.
        timeout: Time,
        /// Failures in a row after which the service is restarted.
        failures: Starts,
        /// Time after readiness before the first check.
        start_after: Time,
    }
}

table! {
    /// Files whose change restarts a service.
    "watch" Watch {
        /// Globs, relative to the working directory.
        files: Many<Glob>,
        /// Globs of files that are never watched.
        ignore: Many<Glob>,
        /// How long after the last change it is restarted.
        debounce: Time,
    }
}

table! {
    /// What of a service's output is kept.
    "logs of a service" ServiceLogs {
        /// Most bytes that are kept.
        max_size: Size,
        /// The age at which output is removed.
        max_age: Time,
        /// What cannot be written (the disk is full) is waited for, and the service waits too; else it is dropped and counted.
        block: bool,
    }
}

table! {
    /// Where output is kept, and how much of it.
    "logs" Logs {
        /// The directory, relative to this file; without it one of stayput's own.
        directory: String,
        /// Most bytes that are kept per service.
        max_size: Size,
        /// The age at which output is removed.
        max_age: Time,
        /// Bytes after which a new file is begun.
        segment: Size,
        /// Whether files that are full are compressed.
        compress: bool,
        /// What cannot be written (the disk is full) is waited for, and services wait too; else it is dropped and counted.
        block: bool,
    }
}

table! {
    /// The web dashboard.
    "dashboard" Dashboard {
        /// A port of the loopback addresses, an address with a port, a list of them, or false for no dashboard.
        listen: DashboardListen,
        /// Nothing can be changed through it.
        read_only: bool,
    }
}

pub(crate) use crate::kinds::{DashboardForm, KindWord, PortNumber, Replicas, Starts};

/// `None` unless there.
pub(crate) fn get<T: Clone>(value: Option<&At<T>>) -> Option<T> {
    value.map(|value| value.value.clone())
}
