//! For tests: what a page looks like on a screen of 80 columns and 24 lines.

use ratatui::backend::TestBackend;
use ratatui::{Frame, Terminal};

/// The screen's lines after drawing.
///
/// # Panics
/// Drawing fails, which it cannot in memory.
pub fn shown(draw: impl FnOnce(&mut Frame<'_>)) -> String {
    let Ok(mut terminal) = Terminal::new(TestBackend::new(80, 24));
    let Ok(_) = terminal.draw(draw);
    let lines = terminal.backend().buffer().content().chunks(80);
    lines.map(|line| line.iter().map(|cell| cell.symbol()).collect::<String>() + "\n").collect()
}
