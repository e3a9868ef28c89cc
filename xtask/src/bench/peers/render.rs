//! The peers' figures as tables, one per trial.

use std::fmt::Write as _;

use super::Figures;
use super::trials::{Row, StrangerRow, SupervisorRow};

/// The section of the page.
pub(crate) fn text(figures: &Figures) -> String {
    let mut page = String::new();
    // Writing into a String cannot fail.
    let _ = all(&mut page, figures);
    page
}

fn all(page: &mut String, figures: &Figures) -> std::fmt::Result {
    let machine = &figures.machine;
    let first = |rows: &[Row]| rows.first().map_or(0, |row| row.events);
    writeln!(page, "## Peers: four trials\n\n`cargo xtask bench peers --count {}`\n", first(&figures.restart))?;
    writeln!(
        page,
        "From `docs/bench/peers.json`, {}. Linux {}, {} CPUs ({}), {} build, load average {} when the last began, as an ordinary user. One server for \
         all (`xtask/programs/peer_server.py`; for gunicorn, uvicorn and pm2's cluster the same answer in their own kind): it imports for 0.5 s, and \
         finishes what it has when it is asked to end. 150 requests a second on fresh connections, sent whether or not earlier ones were answered; after \
         10 s one counts as lost. stayput runs with `--soak 200ms`, everybody else as its manual has it.\n",
        figures.date, machine.kernel, machine.cpus, machine.model, machine.build, machine.load
    )?;
    writeln!(page, "### 1. A planned restart, {} times\n", first(&figures.restart))?;
    under_load(page, &figures.restart, true)?;
    writeln!(
        page,
        "\n### 2. SIGKILL of the process that answers, {} times, {} s of peace before each\n",
        first(&figures.kill),
        figures.peace
    )?;
    under_load(page, &figures.kill, false)?;
    writeln!(page, "\nWhat a process had accepted dies with it; nobody can save that. With several workers the others serve on.\n")?;
    writeln!(page, "### 3. SIGKILL of the supervisor, and the same command again 2 s later\n")?;
    writeln!(
        page,
        "| | Refused | Reset | Hung | Longest gap | Second start | Server starts | Answers after 6 s | Restart works again | Left behind |"
    )?;
    writeln!(page, "|---|---:|---:|---:|---:|---|---:|---|---|---|")?;
    for row in &figures.supervisor {
        supervisor(page, row)?;
    }
    writeln!(page, "\n### 4. A stranger has the port at the start, and lets go after 5 s\n")?;
    writeln!(page, "| | Server starts meanwhile | From the release to the first answer | The supervisor |\n|---|---:|---:|---|")?;
    for row in &figures.stranger {
        stranger(page, row)?;
    }
    writeln!(page, "\n### What a supervisor weighs\n\nProportional set size of its own processes, with 1 and with 50 trivial services.\n")?;
    writeln!(page, "| | 1 service | Processes | 50 services | Processes |\n|---|---:|---:|---:|---:|")?;
    let mut peers: Vec<&str> = figures.memory.iter().map(|row| row.peer.as_str()).collect();
    peers.dedup();
    for peer in peers {
        let of = |services: u32| figures.memory.iter().find(|row| row.peer == peer && row.services == services);
        let cells = |services| of(services).map_or("not measured | ".to_owned(), |row| format!("{} KiB | {}", row.pss_kib, row.processes));
        writeln!(page, "| {} | {} | {} |", bold(peer), cells(1), cells(50))?;
    }
    writeln!(page, "\nWith `stayput run` each service has a guard, a keeper and a daemon of its own.\n")?;
    for shortfall in shortfalls(figures) {
        writeln!(page, "**Falls short:** {shortfall}.\n")?;
    }
    writeln!(page, "### Who could not take part\n")?;
    for (who, why) in &figures.absent {
        writeln!(page, "- {who}: {why}.")?;
    }
    writeln!(page)
}

/// Where somebody else was better. In the first two trials only those count that refused nobody and let nobody hang: to be quick by refusing is no feat.
fn shortfalls(figures: &Figures) -> Vec<String> {
    let mut found = Vec::new();
    let mut better = |what: &str, ours: Option<u64>, others: Vec<(&str, u64)>, unit: &str| {
        let Some(ours) = ours else { return };
        let all: Vec<String> =
            others.iter().filter(|(_, theirs)| *theirs < ours).map(|(peer, theirs)| format!("{peer} {theirs} {unit}")).collect();
        if !all.is_empty() {
            found.push(format!("{what}: stayput {ours} {unit}, {}", all.join(", ")));
        }
    };
    let sound = |rows: &[Row], of: fn(&Row) -> u64| -> (Option<u64>, Vec<(String, u64)>) {
        let ours = rows.iter().find(|row| row.peer == "stayput").map(of);
        let others =
            rows.iter().filter(|row| row.peer != "stayput" && row.trouble.is_none() && row.counts.refused + row.counts.timed_out == 0);
        (ours, others.map(|row| (row.peer.clone(), of(row))).collect())
    };
    for (what, rows, of) in [
        ("longest wait in a planned restart", &figures.restart, (|row: &Row| row.longest_wait_ms) as fn(&Row) -> u64),
        ("time from the order to restart until the new process answers", &figures.restart, |row| row.to_serve_ms),
        ("time from a SIGKILL until a new process answers", &figures.kill, |row| row.to_serve_ms),
        ("longest wait after a SIGKILL", &figures.kill, |row| row.longest_wait_ms),
    ] {
        let (ours, others) = sound(rows, of);
        better(what, ours, others.iter().map(|(peer, value)| (peer.as_str(), *value)).collect(), "ms");
    }
    let served = |row: &StrangerRow| row.to_serve_ms;
    let ours = figures.stranger.iter().find(|row| row.peer == "stayput").and_then(served);
    let others = figures.stranger.iter().filter_map(|row| Some((row.peer.as_str(), served(row)?))).collect();
    better("from a stranger's release until the server answers", ours, others, "ms");
    for services in [1, 50] {
        let of = |row: &super::trials::MemoryRow| (row.services == services).then_some((row.peer.clone(), row.pss_kib));
        let all: Vec<(String, u64)> = figures.memory.iter().filter_map(of).collect();
        let ours = all.iter().find(|(peer, _)| peer == "stayput").map(|(_, kib)| *kib);
        let what = format!("memory with {services} service{}", if services == 1 { "" } else { "s" });
        better(&what, ours, all.iter().map(|(peer, kib)| (peer.as_str(), *kib)).collect(), "KiB");
    }
    found
}

fn bold(peer: &str) -> String {
    if peer == "stayput" { format!("**{peer}**") } else { peer.to_owned() }
}

fn under_load(page: &mut String, rows: &[Row], with_order: bool) -> std::fmt::Result {
    let order = if with_order { " Order |" } else { "" };
    writeln!(page, "| |{order} Answered | Refused | Reset | Hung | Longest wait | Longest gap | To serve | Left behind |")?;
    writeln!(page, "|---|{}---:|---:|---:|---:|---:|---:|---:|---|", if with_order { "---|" } else { "" })?;
    for row in rows {
        let order = if with_order { format!(" {} |", row.order) } else { String::new() };
        let trouble = row.trouble.as_deref().map_or(String::new(), |why| format!(" (after {}: {})", row.events, one_line(why)));
        let counts = &row.counts;
        let reset = counts.reset_before_first_byte
            + counts.reset_after_first_byte
            + counts.keep_alive_race
            + counts.wrong_body
            + counts.connect_other;
        writeln!(
            page,
            "| {}{trouble} |{order} {} | {} | {reset} | {} | {} ms | {} ms | {} ms | {} |",
            bold(&row.peer),
            counts.ok,
            counts.refused,
            counts.timed_out,
            row.longest_wait_ms,
            row.longest_gap_ms,
            row.to_serve_ms,
            left(&row.left)
        )?;
    }
    Ok(())
}

fn supervisor(page: &mut String, row: &SupervisorRow) -> std::fmt::Result {
    let counts = &row.counts;
    let reset = counts.failed() - counts.refused - counts.timed_out;
    let manages = match &row.manages {
        Ok(()) => "yes".to_owned(),
        Err(why) => format!("no: {}", one_line(why)),
    };
    writeln!(
        page,
        "| {} | {} | {reset} | {} | {} ms | {} | {} | {} | {manages} | {} |",
        bold(&row.peer),
        counts.refused,
        counts.timed_out,
        row.longest_gap_ms,
        one_line(&row.second_start),
        row.starts,
        row.answers,
        left(&row.left)
    )
}

fn stranger(page: &mut String, row: &StrangerRow) -> std::fmt::Result {
    let served = row.to_serve_ms.map_or("not within 10 s".to_owned(), |ms| format!("{ms} ms"));
    let ended = row.ended.as_deref().map_or("runs".to_owned(), |how| format!("gave up: {}", one_line(how)));
    writeln!(page, "| {} | {} | {served} | {ended} |", bold(&row.peer), row.starts)
}

/// What others print must not break a table, nor tell of directories that are gone.
fn one_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default().replace('|', "/");
    let words: Vec<&str> =
        line.split(' ').map(|word| if word.starts_with('/') { word.rsplit('/').next().unwrap_or(word) } else { word }).collect();
    words.join(" ").chars().take(100).collect()
}

fn left(left: &[String]) -> String {
    match left {
        [] => "nothing".to_owned(),
        [first, rest @ ..] => {
            let name = one_line(first.split(' ').take(2).collect::<Vec<_>>().join(" ").as_str());
            if rest.is_empty() { name } else { format!("{name} and {} more", rest.len()) }
        }
    }
}
