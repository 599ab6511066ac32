//! Causal attention by matrix products on tiles of scores: some queries against all keys that any of them sees, for all
//! heads at once. What a query does not see is masked, so a tile may span several documents.
//!
//! ```text
//! S = Q K^T     one product per group of heads      P = softmax(S)      one kernel
//! O = P V       backward: dV = P^T dO, dS = P (dO V^T - D), dQ = dS K, dK = dS^T Q
//! ```

use super::blas::{Matrix, Size};
use super::launch::{out, pointer, threads, unsigned};
use super::{Cuda, Kernels, scratch};
use crate::device::cuda::Argument;
use crate::device::{Buffer, Dtype, Window, WindowMut};
use crate::kernels::{Attended, Attention, Onto, Spans};
use std::ops::Range;

/// Rows of queries and keys that are multiplied with each other.
struct Tile {
    queries: Range<usize>,
    keys: Range<usize>,
}

impl Tile {
    /// `Tile` in attention.cu.
    fn bytes(&self, rows: usize, window: Option<usize>) -> [u8; 24] {
        let Self { queries, keys } = self;
        let window = window.unwrap_or(u32::MAX as usize);
        let fields = [queries.start, queries.len(), keys.start, keys.len(), rows, window];
        let fields = fields.map(|n| u32::try_from(n).expect("fewer than 2^32 rows"));
        bytemuck::cast(fields)
    }
}

/// Tiles begin and end at multiples of this number of keys where they can, since tensor cores need aligned rows.
const ALIGNMENT: usize = 16;

/// Tiles that cover all spans, each of at most `capacity` scores. Spans that follow each other in queries and keys
/// share tiles; a tile may therefore have keys that none of its queries sees, which are masked.
fn tiles(a: &Attention, spans: &Spans, capacity: usize) -> Vec<Tile> {
    let mut runs: Vec<(Range<usize>, Range<usize>)> = Vec::new();
    for span in spans.list().iter().filter(|span| !span.queries.is_empty()) {
        match runs.last_mut() {
            Some((queries, keys))
                if queries.end == span.queries.start && keys.end == span.keys.start =>
            {
                queries.end = span.queries.end;
                keys.end = span.keys.end;
            }
            _ => runs.push((span.queries.clone(), span.keys.clone())),
        }
    }
    let mut tiles = Vec::new();
    for (queries, keys) in runs {
        let tile = |start: usize, count: usize| {
            let queries = start..queries.end.min(start + count);
            let seen = |row| spans.seen(row, a.window);
            let first = queries.clone().map(|row| seen(row).start).min().unwrap_or(keys.start);
            let end = queries.clone().map(|row| seen(row).end).max().unwrap_or(keys.start);
            let first = (first / ALIGNMENT * ALIGNMENT).max(keys.start);
            let end = end.next_multiple_of(ALIGNMENT).min(keys.end);
            Tile { queries, keys: first..end }
        };
        let fits = |tile: &Tile| a.heads * tile.queries.len() * tile.keys.len() <= capacity;
        let mut start = queries.start;
        while start < queries.end {
            let halves = std::iter::successors(Some(scratch::QUERIES), |n| Some((n / 2).max(1)));
            let largest = halves.map(|count| tile(start, count)).find(fits);
            let largest = largest.expect("there is room for the scores of one query");
            start = largest.queries.end;
            tiles.push(largest);
        }
    }
    tiles
}

/// One attention: where its operands lie, and how heads share keys.
struct Call<'a> {
    cuda: &'a Cuda,
    a: &'a Attention,
    dtype: Dtype,
    /// Rows of queries and of keys.
    rows: [usize; 2],
}

impl Call<'_> {
    fn matrix(&self, window: Window<'_>, head: usize, rows: usize, first: usize) -> Matrix {
        let width = self.a.head_dim;
        let start = (head * rows + first) * width;
        Matrix {
            address: window.address() + (start * window.dtype().size()) as u64,
            dtype: window.dtype(),
            stride: width,
            transposed: false,
            next: rows * width,
        }
    }

    fn take(&self, pieces: Vec<scratch::Piece>) -> Vec<Buffer> {
        pieces.into_iter().map(|(dtype, len)| self.cuda.device.take(dtype, len)).collect()
    }

    /// Rows of all query heads, starting with `first`.
    fn of_queries(&self, window: Window<'_>, first: usize) -> Matrix {
        self.matrix(window, 0, self.rows[0], first)
    }

    /// Rows of all key heads, starting with `first`.
    fn of_keys(&self, window: Window<'_>, first: usize) -> Matrix {
        self.matrix(window, 0, self.rows[1], first)
    }

    /// Scores of a tile.
    fn scores(&self, buffer: &Buffer, tile: &Tile) -> Matrix {
        let (queries, keys) = (tile.queries.len(), tile.keys.len());
        Matrix {
            address: buffer.all().address(),
            dtype: buffer.dtype(),
            stride: keys,
            transposed: false,
            next: queries * keys,
        }
    }

    /// `c = a b` for every query head, where `b` has a matrix for every key head.
    fn grouped(&self, c: Matrix, a: Matrix, b: Matrix, size: Size) {
        let (group, kv_heads) = (self.a.group(), self.a.kv_heads);
        let at = |x: Matrix, head: usize| Matrix {
            address: x.address + (head * x.next * x.dtype.size()) as u64,
            ..x
        };
        let onto = Onto::Fresh;
        if kv_heads <= group {
            // The heads of a group follow each other and have the same keys.
            for head in 0..kv_heads {
                let b = Matrix { next: 0, ..at(b, head) };
                let (c, a) = (at(c, head * group), at(a, head * group));
                self.cuda.blas.batched((c, onto), a, b, Size { count: group, ..size });
            }
            return;
        }
        for member in 0..group {
            let every = |x: Matrix| Matrix { next: group * x.next, ..at(x, member) };
            self.cuda.blas.batched((every(c), onto), every(a), b, Size { count: kv_heads, ..size });
        }
    }

    /// `c = a b` or `c += a b` for every query head.
    fn by_head(&self, c: (Matrix, Onto), a: Matrix, b: Matrix, size: Size) {
        self.cuda.blas.batched(c, a, b, Size { count: self.a.heads, ..size });
    }

    /// Starts a kernel with a block for each query of each head.
    fn start(&self, kernel: &'static str, tile: &Tile, arguments: &[Argument<'_>]) {
        let grid = ([tile.queries.len(), self.a.heads], threads(tile.keys.len(), 256));
        self.cuda.start(kernel, self.dtype, grid, arguments);
    }
}

fn transposed(x: Matrix) -> Matrix {
    Matrix { transposed: !x.transposed, ..x }
}

fn call<'a>(cuda: &'a Cuda, a: &'a Attention, q: Window<'_>, k: Window<'_>) -> Call<'a> {
    let width = a.head_dim.max(1);
    let rows = [q.len() / (a.heads * width).max(1), k.len() / (a.kv_heads * width).max(1)];
    Call { cuda, a, dtype: q.dtype(), rows }
}

/// Computes the output by head `[H, T, E]`, and the log-sum-exps `[H, T]`.
pub(super) fn forward(
    cuda: &Cuda,
    [o, log_sums]: [WindowMut<'_>; 2],
    [q, k, v]: [Window<'_>; 3],
    (a, spans): (&Attention, &Spans),
) {
    let call = call(cuda, a, q, k);
    // In f32, probabilities take the place of the scores.
    let taken = call.take(scratch::attend(call.dtype, a, call.rows));
    let (scores, probabilities) = (&taken[0], taken.last().expect("at least one"));
    for tile in tiles(a, spans, scores.len()) {
        let (queries, keys) = (tile.queries.len(), tile.keys.len());
        let of_scores = Size { rows: queries, cols: keys, inner: a.head_dim, count: 0 };
        let s = call.scores(scores, &tile);
        let key_rows = call.of_keys(k, tile.keys.start);
        let query_rows = call.of_queries(q, tile.queries.start);
        call.grouped(s, query_rows, transposed(key_rows), of_scores);
        let shape = tile.bytes(call.rows[0], a.window);
        let arguments = [
            pointer(probabilities.all()),
            pointer(scores.all()),
            out(&log_sums),
            pointer(spans.visible()),
            Argument::Struct(&shape),
        ];
        call.start("softmax", &tile, &arguments);
        let of_output = Size { rows: queries, cols: a.head_dim, inner: keys, count: 0 };
        let p = call.scores(probabilities, &tile);
        let to = call.of_queries(o.shared(), tile.queries.start);
        call.grouped(to, p, call.of_keys(v, tile.keys.start), of_output);
    }
}

/// Computes the gradients of queries, keys and values by query head, all `[H, T, E]`.
pub(super) fn backward(
    cuda: &Cuda,
    [dq, dk, dv]: [WindowMut<'_>; 3],
    dy: Window<'_>,
    Attended { qkv: [q, k, v], y, log_sums }: Attended<'_>,
    (a, spans): (&Attention, &Spans),
) {
    let call = call(cuda, a, q, k);
    let (dtype, [rows, _]) = (call.dtype, call.rows);
    let taken = call.take(scratch::attend_back(dtype, a, rows));
    let (scores, dscores, means) = (&taken[0], &taken[1], &taken[2]);
    // Tiles add to the gradients of keys and values, which are rounded once at the end.
    let (p, ds, sums) = match &taken[3..] {
        [p, ds, sums @ ..] => (p, ds, sums),
        _ => (scores, dscores, &[][..]),
    };
    let arguments =
        [pointer(means.all()), pointer(y), pointer(dy), unsigned(rows), unsigned(a.head_dim)];
    let grid = ([rows, a.heads], threads(a.head_dim, 256));
    cuda.start("output_means", dtype, grid, &arguments);

    let [dk_sum, dv_sum] = match sums {
        [dk_sum, dv_sum] => [dk_sum.all(), dv_sum.all()],
        _ => [dk.shared(), dv.shared()],
    };
    for sum in [dk_sum, dv_sum] {
        cuda.gpu.clear(sum.address(), sum.len() * sum.dtype().size());
    }
    for tile in tiles(a, spans, scores.len()) {
        let (queries, keys) = (tile.queries.len(), tile.keys.len());
        let (query, key) = (tile.queries.start, tile.keys.start);
        let of_scores = Size { rows: queries, cols: keys, inner: a.head_dim, count: 0 };
        let key_rows = [k, v].map(|x| transposed(call.of_keys(x, key)));
        let query_rows = [q, dy].map(|x| call.of_queries(x, query));
        call.grouped(call.scores(scores, &tile), query_rows[0], key_rows[0], of_scores);
        call.grouped(call.scores(dscores, &tile), query_rows[1], key_rows[1], of_scores);
        let shape = tile.bytes(rows, a.window);
        let windows = [p, ds, scores, dscores].map(|x| pointer(x.all()));
        let rest = [log_sums, means.all(), spans.visible()].map(pointer);
        let arguments = [&windows[..], &rest, &[Argument::Struct(&shape)]].concat();
        call.start("softmax_back", &tile, &arguments);

        let [p, ds] = [p, ds].map(|x| call.scores(x, &tile));
        let of_keys = Size { rows: keys, cols: a.head_dim, inner: queries, count: 0 };
        let to = |sum| (call.of_queries(sum, key), Onto::Sum);
        call.by_head(to(dv_sum), transposed(p), query_rows[1], of_keys);
        call.by_head(to(dk_sum), transposed(ds), query_rows[0], of_keys);
        let of_queries = Size { rows: queries, cols: a.head_dim, inner: keys, count: 0 };
        call.grouped(call.of_queries(dq.shared(), query), ds, call.of_keys(k, key), of_queries);
    }
    for (sum, to) in sums.iter().zip([dk, dv]) {
        cuda.copy(to, sum.all());
    }
}
