//! Functions are short, take few arguments, and explain what the compiler cannot check.

use super::{assert_none, sources};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{
    Attribute, Block, ExprUnsafe, ImplItemFn, ItemFn, ItemImpl, ItemMod, Signature, TraitItemFn,
};

/// A longer function does more than one thing.
const LINES: usize = 70;
/// `self` counts.
const ARGUMENTS: usize = 5;

/// What a file's functions are like, tests aside.
struct Found<'a> {
    path: &'a str,
    lines: Vec<&'a str>,
    long: Vec<String>,
    wide: Vec<String>,
    unexplained: Vec<String>,
}

/// Whether an item exists only in tests.
pub(super) fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let arguments = attribute.meta.require_list().map(|list| list.tokens.to_string());
        attribute.path().is_ident("cfg") && arguments.is_ok_and(|tokens| tokens == "test")
    })
}

impl Found<'_> {
    fn function(&mut self, signature: &Signature, block: Option<&Block>) {
        let name = format!("{}: {}", self.path, signature.ident);
        // The arguments of an interface to C are not ours to choose.
        if signature.abi.is_none() && signature.inputs.len() > ARGUMENTS {
            self.wide.push(format!("{name} takes {}", signature.inputs.len()));
        }
        let Some(block) = block else { return };
        let lines = block.span().end().line - signature.span().start().line + 1;
        if lines > LINES {
            self.long.push(format!("{name} has {lines} lines"));
        }
    }

    /// Demands a reason in the comment above the statement that begins at or before `line`.
    fn demand_reason(&mut self, line: usize) {
        let mut above = self.lines[..line - 1].iter().rev().map(|line| line.trim());
        // A block may stand in the middle of its statement.
        let comment = above.find(|line| {
            line.starts_with("//") || line.ends_with([';', '{', '}']) || line.is_empty()
        });
        let comments = comment.into_iter().chain(above.take_while(|line| line.starts_with("//")));
        if !comments.collect::<String>().contains("SAFETY:") {
            self.unexplained.push(format!("{}:{line}", self.path));
        }
    }
}

impl<'a> Visit<'a> for Found<'_> {
    fn visit_item_mod(&mut self, item: &'a ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'a ItemFn) {
        if !is_test(&item.attrs) {
            self.function(&item.sig, Some(&item.block));
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'a ImplItemFn) {
        self.function(&item.sig, Some(&item.block));
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'a TraitItemFn) {
        self.function(&item.sig, item.default.as_ref());
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_impl(&mut self, item: &'a ItemImpl) {
        if let Some(token) = &item.unsafety {
            self.demand_reason(token.span.start().line);
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_expr_unsafe(&mut self, block: &'a ExprUnsafe) {
        self.demand_reason(block.unsafe_token.span.start().line);
        visit::visit_expr_unsafe(self, block);
    }
}

/// One list of every file's findings.
fn all(pick: impl Fn(Found<'_>) -> Vec<String>) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        let mut functions = Found {
            path: &source.path,
            lines: source.text.lines().collect(),
            long: Vec::new(),
            wide: Vec::new(),
            unexplained: Vec::new(),
        };
        functions.visit_file(&syn::parse_file(&source.text).unwrap());
        found.extend(pick(functions));
    }
    found
}

#[test]
fn functions_are_short() {
    assert_none(
        all(|found| found.long),
        "a function of more than 70 lines does more than one thing",
    );
}

#[test]
fn functions_take_five_arguments_at_most() {
    assert_none(all(|found| found.wide), "what belongs together is handed over together");
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    assert_none(all(|found| found.unexplained), "`// SAFETY:` stands above each unsafe block");
}
