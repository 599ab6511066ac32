//! Tests of loading folders, which are written with the `safetensors` crate, the format's reference implementation.

use std::collections::HashMap;
use std::fs;

use safetensors::tensor::{TensorView, serialize_to_file};
use tempfile::TempDir;

use super::*;
use crate::kernels;
use crate::model::{Config, Error, Model};

const CONFIG: &str = r#"{
    "model_type": "qwen3", "vocab_size": 11, "hidden_size": 8, "intermediate_size": 12,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 6, "initializer_range": 0.02"#;

fn config(tail: &str) -> String {
    format!("{CONFIG}{tail}}}")
}

fn model(tail: &str) -> Model {
    let config = Config::parse(Path::new("config.json"), &config(tail)).expect("a sound config");
    Model::random(config, 3, kernels::host())
}

type Tensors = HashMap<String, (Vec<usize>, Vec<f32>)>;

fn tensors(model: &Model) -> Tensors {
    let parameters = model.parameters();
    let one = |p| {
        let values = parameters.values(p).read().into_owned();
        (parameters.name(p).to_owned(), (parameters.shape(p).to_vec(), values))
    };
    parameters.ids().map(one).collect()
}

fn write(file: &Path, tensors: &Tensors, dtype: Dtype) {
    let bytes: HashMap<_, _> =
        tensors.iter().map(|(name, (_, values))| (name, dtype.encode(values))).collect();
    let views = tensors.iter().map(|(name, (shape, _))| {
        let view = TensorView::new(dtype.into(), shape.clone(), &bytes[name]);
        (name, view.expect("bytes of the shape"))
    });
    serialize_to_file(views, None, file).expect("a file is written");
}

/// A folder with `tensors` in one file, and with `tail` appended to the configuration.
fn folder(tail: &str, tensors: &Tensors, dtype: Dtype) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("config.json"), config(tail)).expect("a file is written");
    write(&folder.path().join(FILE), tensors, dtype);
    folder
}

fn refusal(folder: &TempDir) -> String {
    let error = Model::load(folder.path(), kernels::host()).err().expect("the folder is refused");
    assert!(matches!(error, Error::Weights { .. }), "{error:?}");
    error.to_string()
}

fn no_model(folder: &Path) -> String {
    let error = Model::load(folder, kernels::host()).err().expect("the folder is refused");
    assert!(matches!(error, Error::NoModel { .. }), "{error:?}");
    error.to_string()
}

#[test]
fn a_folder_returns_the_values_and_their_type() {
    let made = model("");
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        let read = Model::load(folder("", &tensors(&made), dtype).path(), kernels::host())
            .expect("a sound folder");
        assert_eq!(read.dtype(), dtype);
        assert_eq!(read.parameters().len(), made.parameters().len());
        for p in made.parameters().ids() {
            let (got, want) = (read.parameters(), made.parameters());
            assert_eq!((got.name(p), got.shape(p)), (want.name(p), want.shape(p)));
            let mut rounded = want.values(p).read::<f32>().into_owned();
            let bytes = dtype.encode(&rounded);
            dtype.decode(&bytes, &mut rounded);
            assert_eq!(*got.values(p).read::<f32>(), rounded, "{}", got.name(p));
        }
    }
}

#[test]
fn an_index_names_files_in_its_own_folder() {
    let made = tensors(&model(""));
    let folder = folder("", &made, Dtype::F32);
    fs::remove_file(folder.path().join(FILE)).expect("the file is there");
    let mut shards = [Tensors::new(), Tensors::new()];
    for (at, (name, tensor)) in made.clone().into_iter().enumerate() {
        shards[at % 2].insert(name, tensor);
    }
    let file = |at| format!("model-0000{at}-of-00002.safetensors");
    let mut map = serde_json::Map::new();
    for (at, shard) in shards.iter().enumerate() {
        write(&folder.path().join(file(at)), shard, Dtype::F32);
        map.extend(shard.keys().map(|name| (name.clone(), file(at).into())));
    }
    let index = folder.path().join(INDEX);
    let text = serde_json::json!({ "metadata": {}, "weight_map": map }).to_string();
    fs::write(&index, text).expect("a file is written");
    let read = Model::load(folder.path(), kernels::host()).expect("a sound folder");
    assert_eq!(tensors(&read), made);

    fs::write(&index, r#"{"weight_map": {"a": "../outside.safetensors"}}"#).expect("written");
    assert!(refusal(&folder).contains("`../outside.safetensors` is not a file name"));
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let folder = folder("", &tensors(&model("")), Dtype::F32);
    let file = folder.path().join(FILE);
    let whole = fs::read(&file).expect("the file is there");
    for length in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&file, &whole[..length]).expect("a file is written");
        let message = refusal(&folder);
        assert!(message.contains("model.safetensors: cut short:"), "{message}");
        assert!(message.contains(&format!("{length} bytes of ")), "{message}");
        assert!(message.contains("\nhint: copy or download the file again"), "{message}");
    }
}

#[test]
fn tensors_must_be_those_of_the_configuration() {
    const NORM: &str = "model.layers.1.self_attn.q_norm.weight";
    let sound = tensors(&model(""));

    let mut missing = sound.clone();
    missing.remove(NORM);
    let message = refusal(&folder("", &missing, Dtype::F32));
    assert!(message.contains(&format!("model.safetensors: tensor `{NORM}` [6] is missing")));

    let mut misshapen = sound.clone();
    misshapen.insert(NORM.to_owned(), (vec![5], vec![1.0; 5]));
    let message = refusal(&folder("", &misshapen, Dtype::F32));
    assert!(
        message.contains(&format!("tensor `{NORM}` has shape [5], but config.json makes it [6]"))
    );

    let mut unknown = sound.clone();
    let bias = "model.layers.0.self_attn.q_proj.bias";
    unknown.insert(bias.to_owned(), (vec![12], vec![0.0; 12]));
    let message = refusal(&folder("", &unknown, Dtype::F32));
    assert!(message.contains(&format!("config.json has no use for `{bias}`")), "{message}");

    let mut table = sound;
    let name = "model.layers.0.self_attn.rotary_emb.inv_freq";
    table.insert(name.to_owned(), (vec![3], vec![0.5; 3]));
    Model::load(folder("", &table, Dtype::F32).path(), kernels::host())
        .expect("old tables are ignored");
}

#[test]
fn a_tied_output_matrix_may_only_be_a_copy() {
    const TIED: &str = r#", "tie_word_embeddings": true"#;
    let mut both = tensors(&model(TIED));
    assert!(!both.contains_key(HEAD));
    let embedding = both[EMBEDDING].clone();
    both.insert(HEAD.to_owned(), embedding);
    Model::load(folder(TIED, &both, Dtype::F32).path(), kernels::host())
        .expect("a copy is accepted");

    both.get_mut(HEAD).expect("just inserted").1[0] += 1.0;
    let message = refusal(&folder(TIED, &both, Dtype::F32));
    assert!(message.contains("`lm_head.weight` differs from `model.embed_tokens.weight`"));
    assert!(message.contains("hint: set \"tie_word_embeddings\": false"));
}

#[test]
fn weights_that_are_not_float_are_refused() {
    let folder = folder("", &tensors(&model("")), Dtype::F32);
    let bytes = [0u8; 88];
    let view = TensorView::new(safetensors::Dtype::I8, vec![11, 8], &bytes).expect("bytes fit");
    serialize_to_file([(EMBEDDING, view)], None, &folder.path().join(FILE)).expect("written");
    assert!(refusal(&folder).contains("`model.embed_tokens.weight` is stored as I8"));
}

#[test]
fn a_folder_without_safetensors_is_refused_with_a_hint() {
    let folder = folder("", &Tensors::new(), Dtype::F32);
    fs::rename(folder.path().join(FILE), folder.path().join("pytorch_model.bin")).expect("moved");
    let message = no_model(folder.path());
    assert!(message.contains("no model.safetensors and no model.safetensors.index.json in it"));
    assert!(message.contains("hint: only safetensors are read"), "{message}");
}

#[test]
fn fresh_weights_depend_on_seed_and_name_alone() {
    let (once, again) = (tensors(&model("")), tensors(&model("")));
    assert_eq!(once, again);
    let untouched = &once["model.layers.0.input_layernorm.weight"].1;
    assert!(untouched.iter().all(|value| *value == 1.0));
    let tied = tensors(&model(r#", "tie_word_embeddings": true"#));
    assert_eq!(tied[EMBEDDING], once[EMBEDDING], "other parameters do not affect them");
    assert_ne!(
        once["model.layers.0.mlp.up_proj.weight"],
        once["model.layers.1.mlp.up_proj.weight"]
    );
}
