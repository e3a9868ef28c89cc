//! `stayput history`: how some values of the services went over the last hour or day.

use std::process::ExitCode;

use serde_json::json;
use stayput_wire::{History, HistoryRange, Reply, Request, Sample, Series};

use super::instances::{self, ANSWER_WITHIN};
use crate::error::Error;
use crate::output;

/// Arguments of `stayput history`.
#[derive(Debug, clap::Args)]
#[command(after_help = "While somebody looks (status, metrics, the dashboard) a sample is kept every ten seconds, else every five minutes.
What was not measured has no value. A daemon that is started again begins anew.

Exit status: 0; 1 if the daemon does not answer; 2 if there is no such service.")]
pub(crate) struct Args {
    /// Only of this service [default: each]
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    /// Name of the instance [default: the only one that runs]
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// The last day, not the last hour
    #[arg(long)]
    day: bool,
    /// Print all samples as JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Error> {
    let found = instances::choose(args.instance.as_deref(), "history --instance")?;
    let range = if args.day { HistoryRange::Day } else { HistoryRange::Hour };
    let request = Request::History { service: args.service.clone(), range };
    match instances::ask(&found, &request, Some(ANSWER_WITHIN), &mut |_| ())? {
        Reply::History(history) => {
            output::say(&if args.json { format!("{}\n", json!(history)) } else { text(&history) });
            Ok(ExitCode::SUCCESS)
        }
        other => Err(instances::unexpected(&found, other)),
    }
}

fn text(history: &History) -> String {
    let range = match history.range {
        HistoryRange::Hour => "hour",
        HistoryRange::Day => "day",
    };
    history.series.iter().map(|series| of_service(series, range)).collect()
}

fn of_service(series: &Series, range: &str) -> String {
    let samples = &series.samples;
    let mut text = format!("{}: {} samples in the last {range}\n", series.service, samples.len());
    let mut row = |name: &str, shown: &dyn Fn(u64) -> String, value: &dyn Fn(&Sample) -> Option<u64>| {
        let values: Vec<Option<u64>> = samples.iter().map(value).collect();
        let known = || values.iter().copied().flatten();
        let line = match (known().min(), known().max(), values.last().copied().flatten()) {
            (Some(least), Some(most), now) => {
                let now = now.map_or_else(|| "not measured".to_owned(), shown);
                format!("  {name:<12} {now:>12} now  {:>12} least  {:>12} most  {}\n", shown(least), shown(most), course(&values, most))
            }
            _ => format!("  {name:<12} not measured\n"),
        };
        text.push_str(&line);
    };
    row("connections", &|value| value.to_string(), &|sample| sample.connections.map(u64::from));
    row("queued", &|value| value.to_string(), &|sample| sample.queued.map(u64::from));
    row("memory", &bytes, &|sample| sample.memory);
    row("processors", &|permille| format!("{}.{:03}", permille / 1000, permille % 1000), &|sample| sample.cpu_permille.map(u64::from));
    row("restarts", &|value| value.to_string(), &|sample| Some(sample.restarts));
    text
}

fn bytes(bytes: u64) -> String {
    let tenths = bytes / (1 << 20) * 10 + bytes % (1 << 20) * 10 / (1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

/// Characters of a line.
const WIDTH: usize = 32;

/// A curve of eighths; a blank where nobody measured. Several samples in one place: the largest.
fn course(values: &[Option<u64>], most: u64) -> String {
    const EIGHTHS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let each = values.len().div_ceil(WIDTH).max(1);
    let place = |values: &[Option<u64>]| match values.iter().copied().flatten().max() {
        Some(value) => EIGHTHS[usize::try_from(value.saturating_mul(7).checked_div(most).unwrap_or(0)).unwrap_or(7).min(7)],
        None => ' ',
    };
    values.chunks(each).map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_with_their_course_and_what_nobody_measured_is_said() {
        let sample = |connections, memory, restarts| Sample { at_ms: 0, connections, queued: None, memory, cpu_permille: None, restarts };
        let samples = vec![sample(Some(0), Some(1 << 20), 0), sample(None, Some(3 << 19), 0), sample(Some(70), Some(2 << 20), 1)];
        let series = vec![Series { service: "web".to_owned(), samples }];
        let shown = text(&History { range: HistoryRange::Hour, step_ms: 10_000, series });
        assert_eq!(
            shown,
            "\
web: 3 samples in the last hour
  connections            70 now             0 least            70 most  ▁ █
  queued       not measured
  memory            2.0 MiB now       1.0 MiB least       2.0 MiB most  ▄▆█
  processors   not measured
  restarts                1 now             0 least             1 most  ▁▁█
"
        );
    }

    #[test]
    fn a_long_course_fits_a_line() {
        let values: Vec<Option<u64>> = (0..360).map(Some).collect();
        let shown = course(&values, 359);
        assert_eq!((shown.chars().count(), shown.chars().last()), (30, Some('█')));
        assert_eq!(course(&[], 0), "");
    }
}
