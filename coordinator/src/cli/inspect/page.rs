//! The inspection as one page that needs nothing but itself.

use super::Inspection;
use minijinja::{Environment, context};

const PAGE: &str = include_str!("page.html");

/// The page. Whatever the data set holds, it is text there: the template's name makes minijinja escape it.
pub(super) fn render(inspection: &Inspection) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.add_template("page.html", PAGE)?;
    environment.get_template("page.html")?.render(context! {
        run => inspection,
        density => inspection.plan.density() * 100.0,
        total => inspection.receipt.total(),
    })
}
