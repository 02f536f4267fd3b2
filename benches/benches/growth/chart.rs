//! Charts with logarithmic axes, as SVG.

use std::fmt::Write as _;

/// Pixels of one chart with its labels.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 330.0;
/// Around what is drawn in.
const LEFT: f64 = 62.0;
const RIGHT: f64 = 18.0;
const TOP: f64 = 62.0;
const BOTTOM: f64 = 48.0;
/// Told apart without their hue too: the lines differ in lightness, and the marks in shape.
const COLOURS: [&str; 3] = ["#0b5cad", "#c2510a", "#2f7d32"];

/// A line.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Some lines over one size.
pub(crate) struct Chart {
    pub(crate) title: &'static str,
    /// What the sizes are, with their unit.
    pub(crate) x: &'static str,
    /// What it costs, with the unit.
    pub(crate) y: &'static str,
    pub(crate) lines: Vec<Line>,
}

/// Powers of ten around values.
fn decades(values: impl Iterator<Item = f64>) -> (i32, i32) {
    let (mut low, mut high) = (f64::MAX, f64::MIN_POSITIVE);
    for value in values {
        (low, high) = (low.min(value), high.max(value));
    }
    let low = low.log10().floor() as i32;
    (low, (high.log10().ceil() as i32).max(low + 1))
}

/// A power of ten, as people write it.
fn power(exponent: i32) -> String {
    match exponent {
        ..0 => format!("{:.*}", -exponent as usize, 10f64.powi(exponent)),
        0..3 => format!("{:.0}", 10f64.powi(exponent)),
        3..6 => format!("{:.0}k", 10f64.powi(exponent - 3)),
        _ => format!("{:.0}M", 10f64.powi(exponent - 6)),
    }
}

impl Chart {
    fn draw(&self, svg: &mut String, left: f64, top: f64) {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let (x_low, x_high) = decades(points().map(|point| point.0));
        let (y_low, y_high) = decades(points().map(|point| point.1));
        let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        let across =
            |value: f64| LEFT + (value.log10() - f64::from(x_low)) / f64::from(x_high - x_low) * width;
        let up = |value: f64| {
            TOP + height - (value.log10() - f64::from(y_low)) / f64::from(y_high - y_low) * height
        };
        writeln!(svg, "<g transform=\"translate({left},{top})\">").unwrap();
        writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"20\" font-size=\"14\" font-weight=\"bold\">{}</text>",
            self.title
        )
        .unwrap();
        for exponent in x_low..=x_high {
            let x = across(10f64.powi(exponent));
            let (bottom, label) = (TOP + height, power(exponent));
            writeln!(svg, "<path d=\"M{x:.1} {TOP}V{bottom}\" stroke=\"#d5d9de\"/>").unwrap();
            let y = bottom + 15.0;
            writeln!(svg, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{label}</text>").unwrap();
        }
        for exponent in y_low..=y_high {
            let y = up(10f64.powi(exponent));
            let (right, label) = (LEFT + width, power(exponent));
            writeln!(svg, "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#d5d9de\"/>").unwrap();
            let (x, y) = (LEFT - 6.0, y + 4.0);
            writeln!(svg, "<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{label}</text>").unwrap();
        }
        let (middle, bottom) = (LEFT + width / 2.0, HEIGHT - 12.0);
        writeln!(svg, "<text x=\"{middle}\" y=\"{bottom}\" text-anchor=\"middle\">{}</text>", self.x)
            .unwrap();
        let middle = TOP + height / 2.0;
        writeln!(
            svg,
            "<text transform=\"translate(14,{middle}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            self.y
        )
        .unwrap();
        let (mut legend, mut row) = (LEFT, 38.0);
        for (number, line) in self.lines.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let path: Vec<String> = line
                .points
                .iter()
                .map(|point| format!("{:.1} {:.1}", across(point.0), up(point.1)))
                .collect();
            writeln!(
                svg,
                "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                path.join("L")
            )
            .unwrap();
            for point in &line.points {
                mark(svg, number, across(point.0), up(point.1), colour);
            }
            let long = 30.0 + 6.4 * line.name.len() as f64;
            if legend + long > WIDTH {
                (legend, row) = (LEFT, row + 15.0);
            }
            mark(svg, number, legend + 5.0, row - 4.0, colour);
            writeln!(svg, "<text x=\"{}\" y=\"{row}\">{}</text>", legend + 14.0, line.name).unwrap();
            legend += long;
        }
        svg.push_str("</g>\n");
    }
}

fn mark(svg: &mut String, number: usize, x: f64, y: f64, colour: &str) {
    match number % COLOURS.len() {
        0 => writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>"),
        1 => writeln!(
            svg,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"7\" height=\"7\" fill=\"{colour}\"/>",
            x - 3.5,
            y - 3.5
        ),
        _ => writeln!(svg, "<path d=\"M{x:.1} {:.1}l4.5 8h-9z\" fill=\"{colour}\"/>", y - 5.0),
    }
    .unwrap();
}

/// Charts, two beside each other.
pub(crate) fn svg(charts: &[Chart]) -> String {
    let (width, height) = (2.0 * WIDTH, charts.len().div_ceil(2) as f64 * HEIGHT);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"system-ui, 'DejaVu Sans', sans-serif\" font-size=\"12\" fill=\"#1c2126\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    for (number, chart) in charts.iter().enumerate() {
        chart.draw(&mut svg, (number % 2) as f64 * WIDTH, (number / 2) as f64 * HEIGHT);
    }
    svg + "</svg>\n"
}
