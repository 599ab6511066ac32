//! A build with `SOFTGPU_COVERAGE=1` tells which lines of the kernels were executed.

mod common;

use common::{Gpu, recording, scenario};

#[test]
fn lines_that_no_kernel_reached_are_listed() {
    if !softgpu::coverage::enabled() {
        println!("skipped: build with SOFTGPU_COVERAGE=1");
        return;
    }
    softgpu::coverage::reset().expect("the counts can be removed");
    let outcome = scenario("lines_that_no_kernel_reached_are_listed", &recording(), || {
        let gpu = Gpu::ready();
        let x = gpu.upload(&[1_f32; 64]);
        gpu.launch("sample_add", 1, 64, &[&x, &x, &gpu.alloc(256), &64_i32]);
        assert_eq!(gpu.synchronize(gpu.stream), 0);
    });
    outcome.expect(&[]);
    let lines = softgpu::coverage::lines().expect("a process has exited");
    let of = |name: &'static str| lines.iter().filter(move |(line, _)| line.file == name);
    assert_eq!(
        of("samples/elementwise.cu").filter(|(_, count)| **count > 0).count(),
        4,
        "{lines:?}"
    );
    assert!(of("samples/reduce.cu").count() > 20);
    assert!(of("samples/reduce.cu").all(|(_, count)| *count == 0));
    let never = softgpu::coverage::unexecuted().expect("as above");
    assert!(never.iter().all(|line| !line.file.starts_with(softgpu::coverage::SAMPLES)));
}
