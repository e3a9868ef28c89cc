//! The timeline as a picture: every request is a mark, with lanes for the listener and the processes. Drawn by hand, without scripts or fonts from
//! elsewhere; it follows the reader's light or dark mode, and tells fates apart by shape as well as by colour.

use std::fmt::Write as _;

use super::strip;
use crate::judge::{Gap, outcome, time};
use crate::result::{Comparison, Fate, Scenario};
use crate::scenario::causes::Cause;

const WIDTH: f64 = 720.0;
/// Left of it stand the names of the lanes.
const LEFT: f64 = 104.0;
const RIGHT: f64 = 708.0;
/// The close look begins so long before the order, and ends so long after it, in milliseconds.
const LEAD: f64 = 600.0;
const CLOSE: f64 = 4_000.0;

const STYLE: &str = "
:root { color-scheme: light dark; }
svg { --paper: #ffffff; --ink: #1b1f24; --dim: #667080; --rule: #d8dde3; --good: #1a7f4b; --wait: #9a6700; --bad: #c0322b; --hung: #8250df; --bar: #9fb4cc; --new: #7cc29b; }
@media (prefers-color-scheme: dark) {
  svg { --paper: #14181d; --ink: #e8ebef; --dim: #97a1ae; --rule: #333b45; --good: #4cc38a; --wait: #e0b341; --bad: #ff6d64; --hung: #b98cff; --bar: #48607c; --new: #2f7d55; }
}
.paper { fill: var(--paper); }
text { font: 12px system-ui, -apple-system, 'Segoe UI', sans-serif; fill: var(--ink); }
.title { font-size: 17px; font-weight: 650; }
.head { font-size: 13px; font-weight: 650; }
.dim, .tick { fill: var(--dim); font-size: 11px; }
.tick { text-anchor: middle; }
.lane { text-anchor: end; fill: var(--dim); font-size: 11px; }
.rule { stroke: var(--rule); stroke-width: 1; fill: none; }
.order { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 3 3; fill: none; }
.old { fill: var(--bar); } .new { fill: var(--new); } .failed { fill: var(--bad); opacity: .55; }
.served { stroke: var(--good); stroke-width: 3.2; stroke-linecap: round; fill: none; }
.waited { stroke: var(--wait); stroke-width: 1.3; fill: none; }
.refused { stroke: var(--bad); stroke-width: 1.3; fill: none; }
.reset { fill: var(--bad); }
.stale { fill: var(--wait); }
.hung { stroke: var(--hung); stroke-width: 1.3; fill: none; }
.hatch { stroke: var(--bad); stroke-width: 1; opacity: .5; fill: none; }
";

/// The picture.
pub fn svg(comparison: &Comparison) -> String {
    let mut body = String::new();
    // Writing into a String cannot fail.
    let bottom = draw(&mut body, comparison).unwrap_or(0.0);
    let description = escaped(&comparison.verdict);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {bottom}\" width=\"{WIDTH}\" height=\"{bottom}\" role=\"img\" \
         aria-labelledby=\"title desc\">\n<title id=\"title\">One server, one restart: before, after, and with stayput</title>\n<desc \
         id=\"desc\">{description}</desc>\n<style>{STYLE}</style>\n<rect class=\"paper\" width=\"{WIDTH}\" height=\"{bottom}\"/>\n{body}</svg>\n"
    )
}

fn draw(out: &mut String, comparison: &Comparison) -> Result<f64, std::fmt::Error> {
    writeln!(out, "<text class=\"title\" x=\"12\" y=\"26\">One server, one restart</text>")?;
    legend(out, 12.0, 46.0)?;
    let mut y = 72.0;
    let close = Scale { from: -LEAD, to: CLOSE };
    for id in ["before", "after", "stayput"] {
        if let Some(scenario) = comparison.scenario(id) {
            y = restart(out, scenario, close, y)?;
        }
    }
    y = axis(out, close, y, "seconds after the restart was ordered")?;
    y = overview(out, comparison, y + 24.0)?;
    y = causes(out, comparison, y + 24.0)?;
    let environment = &comparison.environment;
    writeln!(
        out,
        "<text class=\"dim\" x=\"12\" y=\"{}\">stayput compare --{} · Linux {} · {} CPUs · {} build · the server imports for {} ms before it binds · {} requests/s</text>",
        y + 22.0,
        environment.mode,
        escaped(environment.kernel.split('-').next().unwrap_or_default()),
        environment.cpus,
        environment.build,
        environment.boot_ms,
        environment.rate
    )?;
    Ok(y + 34.0)
}

/// Milliseconds after the order to the picture's units.
#[derive(Debug, Clone, Copy)]
struct Scale {
    from: f64,
    to: f64,
}

impl Scale {
    fn x(self, ms: f64) -> f64 {
        let share = (ms - self.from) / (self.to - self.from);
        LEFT + share.clamp(0.0, 1.0) * (RIGHT - LEFT)
    }

    fn holds(self, ms: f64) -> bool {
        (self.from..=self.to).contains(&ms)
    }
}

fn legend(out: &mut String, x: f64, y: f64) -> std::fmt::Result {
    let mut at = x;
    let entries = [
        (Fate::Served, "served"),
        (Fate::Waited, "waited > 0.1 s"),
        (Fate::Refused, "refused"),
        (Fate::Reset, "reset"),
        (Fate::Hung, "no answer"),
    ];
    for (fate, name) in entries.map(|(fate, name)| (Some(fate), name)).into_iter().chain([(None, "answered by old code")]) {
        let mut marks = Marks::default();
        match fate {
            Some(fate) => marks.add(fate, at + 4.0, y - 4.0),
            None => marks.add_stale(at + 4.0, y - 4.0),
        }
        marks.write(out)?;
        writeln!(out, "<text class=\"dim\" x=\"{:.1}\" y=\"{y:.1}\">{}</text>", at + 12.0, escaped(name))?;
        at += 24.0 + name.chars().count() as f64 * 6.2;
    }
    writeln!(out, "<text class=\"dim\" x=\"{at:.1}\" y=\"{y:.1}\">· a mark: a request</text>")
}

/// Marks of one lane, one path per kind.
#[derive(Debug, Default)]
struct Marks {
    served: String,
    waited: String,
    refused: String,
    reset: String,
    hung: String,
    stale: String,
}

impl Marks {
    fn add(&mut self, fate: Fate, x: f64, y: f64) {
        let _ = match fate {
            Fate::Served => write!(self.served, "M{x:.1} {y:.1}h0"),
            Fate::Waited => write!(self.waited, "M{:.1} {y:.1}a2.4 2.4 0 1 0 4.8 0a2.4 2.4 0 1 0-4.8 0", x - 2.4),
            Fate::Refused | Fate::Other => write!(self.refused, "M{:.1} {:.1}l4 4m0-4l-4 4", x - 2.0, y - 2.0),
            Fate::Reset => write!(self.reset, "M{:.1} {:.1}l5.6 0l-2.8-5z", x - 2.8, y + 2.4),
            Fate::Hung => write!(self.hung, "M{:.1} {:.1}h4v4h-4z", x - 2.0, y - 2.0),
        };
    }

    /// Answered by the copy that should have been gone.
    fn add_stale(&mut self, x: f64, y: f64) {
        let _ = write!(self.stale, "M{x:.1} {:.1}l2.6 2.6-2.6 2.6-2.6-2.6z", y - 2.6);
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let all = [
            ("served", &self.served),
            ("waited", &self.waited),
            ("hung", &self.hung),
            ("stale", &self.stale),
            ("refused", &self.refused),
            ("reset", &self.reset),
        ];
        for (class, path) in all.into_iter().filter(|(_, path)| !path.is_empty()) {
            writeln!(out, "<path class=\"{class}\" d=\"{path}\"/>")?;
        }
        Ok(())
    }
}

/// The close look at one restart: heading and four lanes. Returns the next y.
fn restart(out: &mut String, scenario: &Scenario, scale: Scale, top: f64) -> Result<f64, std::fmt::Error> {
    let order = scenario.ordered_ms as f64;
    let after_order = |ms: u64| ms as f64 - order;
    let end = scenario.timeline.last().map_or(0.0, |dot| dot.due_ms - order);
    let gap = Gap::of(scenario);
    let nobody = if gap.ms == 0 { "always served".to_owned() } else { format!("nobody served for {}", gap.text()) };
    let lost = scenario.requests.lost();
    let facts = scenario.trouble.clone().unwrap_or_else(|| format!("{nobody} · {lost} of {} requests lost", scenario.requests.total));
    writeln!(
        out,
        "<text class=\"head\" x=\"12\" y=\"{:.1}\">{}<tspan class=\"dim\" dx=\"10\">{}</tspan></text>",
        top + 12.0,
        escaped(&scenario.id),
        escaped(&facts)
    )?;
    let lane = |number: f64| top + 20.0 + number * 15.0;
    for (number, name) in [(0.0, "listening"), (1.0, "old process"), (2.0, "new process"), (3.0, "requests")] {
        writeln!(out, "<text class=\"lane\" x=\"{:.1}\" y=\"{:.1}\">{name}</text>", LEFT - 8.0, lane(number) + 10.0)?;
        writeln!(out, "<path class=\"rule\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/>", y = lane(number) + 13.5)?;
    }
    for (index, listener) in scenario.listeners.iter().enumerate() {
        // Two at once stand one over the other.
        let (class, dy) = if index % 2 == 0 { ("old", 2.0) } else { ("new", 7.0) };
        bar(out, class, scale, after_order(listener.from_ms), after_order(listener.to_ms), lane(0.0) + dy, 4.0)?;
    }
    for process in &scenario.processes {
        let (class, number) = match process.role {
            "old" => ("old", 1.0),
            "attempt" => ("failed", 2.0),
            _ => ("new", 2.0),
        };
        let to = process.to_ms.map_or(end, after_order).min(end);
        bar(out, class, scale, after_order(process.from_ms), to, lane(number) + 3.0, 7.0)?;
    }
    let mut marks = Marks::default();
    for dot in scenario.timeline.iter().filter(|dot| scale.holds(dot.due_ms - order)) {
        marks.add(dot.fate, scale.x(dot.due_ms - order), lane(3.0) + 6.5);
    }
    marks.write(out)?;
    let x = scale.x(0.0);
    writeln!(out, "<path class=\"order\" d=\"M{x:.1} {:.1}V{:.1}\"/>", lane(0.0), lane(4.0))?;
    Ok(lane(4.0) + 8.0)
}

fn bar(out: &mut String, class: &str, scale: Scale, from: f64, to: f64, y: f64, height: f64) -> std::fmt::Result {
    if to < scale.from || from > scale.to {
        return Ok(());
    }
    let (left, right) = (scale.x(from), scale.x(to));
    let width = (right - left).max(1.5);
    writeln!(out, "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height}\" rx=\"1.5\"/>")
}

/// Ticks under a panel. Returns the next y.
fn axis(out: &mut String, scale: Scale, y: f64, name: &str) -> Result<f64, std::fmt::Error> {
    let span = (scale.to - scale.from) / 1000.0;
    let step = [0.5, 1.0, 2.0, 5.0, 10.0, 20.0].into_iter().find(|step| span / step <= 10.0).unwrap_or(60.0);
    let first = (scale.from / 1000.0 / step).ceil() as i64;
    let last = (scale.to / 1000.0 / step).floor() as i64;
    for number in first..=last {
        let seconds = number as f64 * step;
        let x = scale.x(seconds * 1000.0);
        writeln!(
            out,
            "<path class=\"rule\" d=\"M{x:.1} {:.1}v4\"/><text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\">{seconds}</text>",
            y - 6.0,
            y + 9.0
        )?;
    }
    writeln!(out, "<text class=\"dim\" x=\"{LEFT}\" y=\"{:.1}\">{name}</text>", y + 23.0)?;
    Ok(y + 26.0)
}

/// The same three from a distance: the whole wait.
fn overview(out: &mut String, comparison: &Comparison, top: f64) -> Result<f64, std::fmt::Error> {
    writeln!(out, "<text class=\"head\" x=\"12\" y=\"{top:.1}\">From a distance</text>")?;
    let three: Vec<&Scenario> = ["before", "after", "stayput"].iter().filter_map(|id| comparison.scenario(id)).collect();
    let end = |scenario: &&Scenario| {
        let seen = scenario.timeline.last().map_or(0.0, |dot| dot.due_ms - scenario.ordered_ms as f64);
        seen.max(if scenario.cut.is_some() { Gap::of(scenario).ms as f64 } else { 0.0 })
    };
    let scale = Scale { from: -1_000.0, to: three.iter().map(end).fold(5_000.0, f64::max) + 1_000.0 };
    let mut y = top + 8.0;
    for scenario in &three {
        strip_lane(out, scenario, scale, y, &scenario.id)?;
        if let Some(cut) = scenario.cut.as_ref().filter(|cut| cut.left_ms.is_some()) {
            let (from, to) = (scale.x(cut.after_ms as f64), scale.x(cut.after_ms as f64 + cut.left_ms.unwrap_or_default() as f64));
            let mut hatch = String::new();
            let mut x = from + 3.0;
            while x + 5.0 < to {
                let _ = write!(hatch, "M{x:.1} {:.1}l5-9", y + 11.0);
                x += 7.0;
            }
            writeln!(out, "<path class=\"hatch\" d=\"{hatch}\"/>")?;
            let text = format!("not watched: the kernel's TIME_WAIT timers had {} to go", time(cut.left_ms.unwrap_or_default()));
            let middle = f64::midpoint(from, to);
            let width = text.chars().count() as f64 * 5.8;
            writeln!(out, "<rect class=\"paper\" x=\"{:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"14\"/>", middle - width / 2.0, y)?;
            writeln!(out, "<text class=\"tick\" x=\"{middle:.1}\" y=\"{:.1}\">{}</text>", y + 10.5, escaped(&text))?;
        }
        y += 17.0;
    }
    axis(out, scale, y + 6.0, "seconds after the restart was ordered")
}

/// The true causes, three rows each. Returns the next y.
fn causes(out: &mut String, comparison: &Comparison, top: f64) -> Result<f64, std::fmt::Error> {
    writeln!(out, "<text class=\"head\" x=\"12\" y=\"{top:.1}\">What really takes a port on a restart</text>")?;
    let scale = Scale { from: -LEAD, to: CLOSE };
    let mut y = top + 10.0;
    for cause in Cause::ALL {
        writeln!(out, "<text class=\"dim\" x=\"12\" y=\"{:.1}\">{}</text>", y + 10.0, escaped(cause.title()))?;
        y += 15.0;
        for way in ["before", "after", "stayput"] {
            let Some(scenario) = comparison.scenario(&format!("{}-{way}", cause.id())) else { continue };
            strip_marks(out, scenario, scale, y, way)?;
            y += 15.0;
            writeln!(out, "<text class=\"dim\" x=\"{LEFT}\" y=\"{:.1}\">{}</text>", y + 6.0, escaped(&outcome(scenario)))?;
            y += 13.0;
        }
        y += 4.0;
    }
    axis(out, scale, y + 6.0, "seconds after the end was ordered")
}

/// One lane of marks, each request by itself.
fn strip_marks(out: &mut String, scenario: &Scenario, scale: Scale, y: f64, name: &str) -> std::fmt::Result {
    writeln!(out, "<text class=\"lane\" x=\"{:.1}\" y=\"{:.1}\">{}</text>", LEFT - 8.0, y + 10.0, escaped(name))?;
    let order = scenario.ordered_ms as f64;
    // Where two copies shared the port, from when on, and who was meant to answer.
    let new = scenario.processes.iter().find(|process| process.role == "new").map(|process| process.pid);
    let both =
        scenario.share.and(scenario.turnover_ms).map(|turnover| order + std::time::Duration::from_millis(turnover).as_secs_f64() * 1000.0);
    let mut marks = Marks::default();
    for dot in scenario.timeline.iter().filter(|dot| scale.holds(dot.due_ms - order)) {
        let (x, y) = (scale.x(dot.due_ms - order), y + 6.5);
        if both.is_some_and(|from| dot.due_ms >= from) && dot.pid != 0 && Some(dot.pid) != new {
            marks.add_stale(x, y);
        } else {
            marks.add(dot.fate, x, y);
        }
    }
    marks.write(out)?;
    let x = scale.x(0.0);
    writeln!(out, "<path class=\"order\" d=\"M{x:.1} {y:.1}v13\"/>")
}

/// One lane in columns: the worst in each decides.
fn strip_lane(out: &mut String, scenario: &Scenario, scale: Scale, y: f64, name: &str) -> std::fmt::Result {
    const COLUMNS: usize = 150;
    writeln!(out, "<text class=\"lane\" x=\"{:.1}\" y=\"{:.1}\">{}</text>", LEFT - 8.0, y + 10.0, escaped(name))?;
    let order = scenario.ordered_ms as f64;
    let columns = strip::columns(scenario, order + scale.from, scale.to - scale.from, COLUMNS);
    let mut marks = Marks::default();
    for (index, fate) in columns.iter().enumerate() {
        if let Some(fate) = fate {
            marks.add(*fate, LEFT + (index as f64 + 0.5) / COLUMNS as f64 * (RIGHT - LEFT), y + 6.5);
        }
    }
    marks.write(out)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_keeps_within_the_picture() {
        let scale = Scale { from: -500.0, to: 1_500.0 };
        assert!((scale.x(-500.0) - LEFT).abs() < 0.01 && (scale.x(1_500.0) - RIGHT).abs() < 0.01);
        assert!((scale.x(99_999.0) - RIGHT).abs() < 0.01);
        assert!(!scale.holds(1_501.0));
    }

    #[test]
    fn what_others_wrote_cannot_become_markup() {
        assert_eq!(escaped("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
    }
}
