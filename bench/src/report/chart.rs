//! The chart: a bar for each case's rate, a line from p50 to p99.9 for its latency at half load.

use std::fmt::Write as _;

use super::table::{count, micros};
use crate::result::{Row, Run};

const LEFT: f64 = 230.0;
const BARS: f64 = 380.0;
const GAP: f64 = 110.0;
const LINES: f64 = 330.0;
const LINE: f64 = 24.0;
const TOP: f64 = 58.0;

/// The run as an SVG picture, readable in light and dark.
pub(crate) fn chart(run: &Run) -> String {
    let rows = &run.rows;
    #[expect(clippy::cast_precision_loss, reason = "a few dozen rows")]
    let height = TOP + LINE * rows.len() as f64 + 34.0;
    let width = LEFT + BARS + GAP + LINES + 70.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"system-ui, sans-serif\" font-size=\"13\">
<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>
<text x=\"{LEFT}\" y=\"22\" font-weight=\"600\">requests per second of one core (× nginx)</text>
<text x=\"{}\" y=\"22\" font-weight=\"600\">latency at half of that, µs: p50 · p99 · p99.9</text>
",
        LEFT + BARS + GAP
    );
    let most = rows.iter().map(|row| row.median(|round| round.rate)).fold(1.0, f64::max);
    let scale = Scale::of(rows);
    scale.draw(height, &mut svg);
    let mut y = TOP;
    for row in rows {
        bar(row, rows, most, y, &mut svg);
        latencies(row, &scale, y, &mut svg);
        y += LINE;
    }
    svg.push_str("</svg>\n");
    svg
}

fn bar(row: &Row, rows: &[Row], most: f64, y: f64, svg: &mut String) {
    let rate = row.median(|round| round.rate);
    let color = match row.case.as_str() {
        "nginx" | "nginx.tls" => "#8a8f98",
        "toy" => "#c3a24a",
        _ => "#2f6fb7",
    };
    let length = BARS * rate / most;
    let ratio = row.ratio(rows).map(|ratio| format!(" ({ratio:.2})")).unwrap_or_default();
    // Writing to a String cannot fail; so below.
    let _ = writeln!(
        svg,
        "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text><rect x=\"{LEFT}\" y=\"{:.0}\" width=\"{length:.1}\" height=\"15\" fill=\"{color}\"/><text x=\"{:.1}\" y=\"{:.0}\">{}{ratio}</text>",
        LEFT - 8.0,
        y + 12.0,
        row.case,
        y,
        LEFT + length + 6.0,
        y + 12.0,
        count(rate),
    );
}

fn latencies(row: &Row, scale: &Scale, y: f64, svg: &mut String) {
    let [p50, p99, p999] = half(row);
    let middle = y + 7.5;
    let _ = writeln!(
        svg,
        "<line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\" stroke=\"#9db8d6\" stroke-width=\"2\"/>",
        scale.x(p50),
        scale.x(p999)
    );
    for (value, radius) in [(p50, 5), (p99, 4), (p999, 3)] {
        let _ = writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{middle}\" r=\"{radius}\" fill=\"#2f6fb7\"><title>{} µs</title></circle>",
            scale.x(value),
            micros(value)
        );
    }
}

fn half(row: &Row) -> [f64; 3] {
    [
        row.median(|round| round.half.p50),
        row.median(|round| round.half.p99),
        row.median(|round| round.half.p999),
    ]
}

/// Powers of ten across the right half.
struct Scale {
    first: f64,
    last: f64,
}

impl Scale {
    fn of(rows: &[Row]) -> Self {
        let all: Vec<_> = rows.iter().flat_map(half).filter(|value| *value > 0.0).collect();
        let first = all.iter().copied().fold(f64::INFINITY, f64::min).log10().floor();
        let last = all.iter().copied().fold(0.0, f64::max).log10().ceil();
        if first.is_finite() && last > first { Self { first, last } } else { Self { first: 0.0, last: 1.0 } }
    }

    fn x(&self, value: f64) -> f64 {
        let part = (value.max(1e-9).log10() - self.first) / (self.last - self.first);
        LEFT + BARS + GAP + LINES * part.clamp(0.0, 1.0)
    }

    fn draw(&self, height: f64, svg: &mut String) {
        let mut power = self.first;
        while power <= self.last {
            let x = self.x(10_f64.powf(power));
            let _ = writeln!(
                svg,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{}\" stroke=\"#ddd\"/><text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#666\">{}</text>",
                TOP - 8.0,
                height - 26.0,
                height - 10.0,
                count(10_f64.powf(power))
            );
            power += 1.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Percentiles, Round};

    fn run(rates: &[(&str, f64)]) -> Run {
        let rows = rates.iter().map(|(case, rate)| {
            let half = Percentiles { p50: 20.0, p99: 150.0, p999: 900.0 };
            let round = Round { rate: *rate, half, ..Round::default() };
            Row { case: (*case).to_owned(), yardstick: "nginx".to_owned(), rounds: vec![round] }
        });
        Run { machine: vec![], seconds: 1.0, footings: vec![], rows: rows.collect(), missing: vec![] }
    }

    #[test]
    fn a_bar_is_as_long_as_its_rate_and_every_case_has_one() {
        let svg = chart(&run(&[("nginx", 1000.0), ("rest.value.one", 500.0)]));
        assert!(svg.contains("width=\"380.0\"") && svg.contains("width=\"190.0\""), "{svg}");
        assert!(svg.contains(">rest.value.one<") && svg.contains("500 (0.50)"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 6);
        assert_eq!(svg.matches("<svg").count(), svg.matches("</svg>").count());
    }

    #[test]
    fn the_scale_includes_every_latency_and_an_empty_run_has_a_scale() {
        let run = run(&[("nginx", 1.0)]);
        let scale = Scale::of(&run.rows);
        assert_eq!((scale.first, scale.last), (1.0, 3.0));
        assert!(scale.x(20.0) < scale.x(150.0) && scale.x(1e9) <= LEFT + BARS + GAP + LINES);
        assert!(chart(&self::run(&[])).contains("</svg>"));
    }
}
