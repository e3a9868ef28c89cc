//! Requests in columns of time: what a person sees of a thousand dots. The worst that happened in a column decides it.

use crate::result::{Fate, Scenario};

/// The column for each of `width` slices of `window` milliseconds from `from`; `None`: no request was due then.
pub(super) fn columns(scenario: &Scenario, from: f64, window: f64, width: usize) -> Vec<Option<Fate>> {
    let mut columns = vec![None; width];
    for dot in &scenario.timeline {
        let place = (dot.due_ms - from) / window * width as f64;
        if (0.0..width as f64).contains(&place) {
            let column = &mut columns[place as usize];
            *column = (*column).max(Some(dot.fate));
        }
    }
    columns
}

/// One character each.
pub(super) fn line(columns: &[Option<Fate>]) -> String {
    columns
        .iter()
        .map(|column| match column {
            None => ' ',
            Some(Fate::Served) => '·',
            Some(Fate::Waited) => 'o',
            Some(Fate::Refused) => '×',
            Some(Fate::Reset) => '!',
            Some(Fate::Hung) => '?',
            Some(Fate::Other) => '#',
        })
        .collect()
}
