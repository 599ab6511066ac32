//! `worker generate`: answers prompts with a model, streaming the answers to standard output.

use crate::cache;
use crate::devices::{self, Device};
use crate::model::{Generation, Model, Sampling};
use anyhow::Context;
use clap::Args;
use data::{Conversation, Folder, Message, Options, Preparer, Role};
use proto::print;
use proto::spec::Location;
use std::ops::ControlFlow;
use std::path::PathBuf;

/// The model, the prompts, and how tokens are sampled.
#[derive(Args)]
pub struct Arguments {
    /// Model: a folder, `s3://bucket/prefix` or `hf://owner/name[@revision]`
    model: String,
    /// User message; several prompts are answered one after another
    #[arg(required = true)]
    prompts: Vec<String>,
    /// System message that comes before each prompt
    #[arg(long)]
    system: Option<String>,
    /// Maximum number of tokens to generate
    #[arg(long, default_value_t = 256)]
    max_new_tokens: usize,
    /// Sampling temperature; 0 always takes the most likely token
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Sample only from the most likely tokens whose probabilities add up to this
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Random seed for sampling, used if the temperature is above 0
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Device to compute on: cpu, or a GPU such as cuda:0
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Continue the prompt as plain text, without the chat template
    #[arg(long)]
    raw: bool,
}

/// Answers every prompt.
///
/// # Errors
/// The model cannot be loaded, the sampling options are invalid, or a prompt does not fit.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.device != Device::Cpu {
        devices::start_prepared()?;
    }
    let model = fetch(&arguments.model)?;
    let folder = Folder::read(&model)?;
    let preparer = Preparer::new(&folder, Options::default())?;
    let kernels = devices::open(&arguments.device)?.kernels;
    let model = Model::load(&model, kernels.clone())?;
    kernels.device().check()?;
    let sampling = if arguments.temperature > 0.0 {
        Sampling::nucleus(arguments.temperature, arguments.top_p, arguments.seed)?
    } else {
        Sampling::greedy()
    };
    let generation = Generation {
        sampling,
        max_new_tokens: arguments.max_new_tokens,
        stop: preparer.stop_ids().to_vec(),
    };
    for prompt in &arguments.prompts {
        if arguments.prompts.len() > 1 {
            print::line(format_args!("> {prompt}"))?;
        }
        answer(&model, &preparer, &generation, arguments, prompt)?;
        kernels.device().check()?;
    }
    Ok(())
}

/// The model's folder on this host.
fn fetch(model: &str) -> anyhow::Result<PathBuf> {
    let location = Location::parse(model, &std::env::current_dir()?)
        .map_err(|e| anyhow::anyhow!("{e}\nhint: {}", e.hint()))?;
    if let Some(folder) = location.as_file() {
        anyhow::ensure!(
            folder.is_dir(),
            "there is no folder `{}`\nhint: name a model's folder, or its URL",
            folder.display()
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(cache::folder(&location))?)
}

fn answer(
    model: &Model,
    preparer: &Preparer,
    generation: &Generation,
    arguments: &Arguments,
    prompt: &str,
) -> anyhow::Result<()> {
    let text = if arguments.raw {
        prompt.to_owned()
    } else {
        let template = preparer.template().context(
            "the model has no chat template\nhint: --raw continues the prompt as plain text",
        )?;
        let system = arguments.system.iter().map(|s| Message::new(Role::System, s));
        let messages = system.chain([Message::new(Role::User, prompt)]);
        let conversation = Conversation::of(messages);
        template.prompt(&conversation).map_err(|reject| anyhow::anyhow!("{}", reject.detail))?
    };
    let encoding =
        preparer.tokenizer().encode(text, arguments.raw).map_err(anyhow::Error::from_boxed)?;
    let mut tokens = Vec::new();
    let mut shown = 0;
    let mut failed = None;
    model.generate(encoding.get_ids(), generation, |token| {
        tokens.push(token);
        // A character may span several tokens: an incomplete one is held back.
        let text = match preparer.tokenizer().decode(&tokens, true) {
            Ok(text) => text,
            Err(error) => {
                failed = Some(anyhow::Error::from_boxed(error));
                return ControlFlow::Break(());
            }
        };
        if !text.ends_with('\u{fffd}') && text.is_char_boundary(shown) && text.len() > shown {
            if let Err(error) = print::text(&text[shown..]) {
                failed = Some(error.into());
                return ControlFlow::Break(());
            }
            shown = text.len();
        }
        ControlFlow::Continue(())
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    Ok(print::line("")?)
}
