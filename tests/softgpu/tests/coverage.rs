//! Counts of executed lines tell which lines of the kernels a process executed.

mod common;

use common::{Gpu, fresh_folder, recording, scenario};
use softgpu::coverage::{self, Line, SAMPLES};

#[test]
fn lines_are_executed_only_if_everything_on_them_is() {
    if let Err(why) = coverage::available() {
        println!("skipped: {why}");
        return;
    }
    let folder = fresh_folder("counts");
    let settings = softgpu::Settings { coverage: Some(folder.clone()), ..recording() };
    let name = "lines_are_executed_only_if_everything_on_them_is";
    let outcome = scenario(name, &settings, || {
        let gpu = Gpu::ready();
        let x = gpu.upload(&[1_f32; 64]);
        let y = gpu.alloc(256);
        gpu.launch("sample_add", 1, 64, &[&x, &x, &y, &64_i32]);
        gpu.launch("sample_unary_exp", 1, 64, &[&x, &y, &64_i32]);
        // All of its threads return early.
        gpu.launch("sample_unary_log", 1, 64, &[&x, &y, &0_i32]);
        assert_eq!(gpu.synchronize(gpu.stream), 0);
    });
    outcome.expect(&[]);
    let lines = coverage::lines(&folder).expect("a process has exited");
    std::fs::remove_dir_all(&folder).expect("the folder is the test's own");
    let of = |wanted: &'static str| -> Vec<bool> {
        let own = |line: &Line| line.file.starts_with(SAMPLES) && line.function == wanted;
        lines.iter().filter(|(line, _)| own(line)).map(|(_, executed)| *executed).collect()
    };
    assert_eq!(of("sample_add"), [true; 4], "{lines:?}");
    assert_eq!(of("sample_unary_exp"), [false], "no thread returned early: {lines:?}");
    assert_eq!(of("sample_unary_log"), [false], "no thread went on: {lines:?}");
    assert_eq!(of("sample_from_bf16"), [false; 4], "it was not launched: {lines:?}");
    assert!(lines.keys().any(|line| !line.file.starts_with(SAMPLES)), "{lines:?}");
}
