//! Reads the weights of a model folder, from any number of files.

use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::Path;

/// Tensors by name: shape and bytes.
pub type Weights = BTreeMap<String, (Vec<usize>, Vec<u8>)>;

/// Reads every `.safetensors` file of a folder.
pub fn weights(folder: &Path) -> Weights {
    let mut weights = Weights::new();
    for name in crate::fixture::files(folder) {
        if !name.ends_with(".safetensors") {
            continue;
        }
        let bytes = std::fs::read(folder.join(&name)).expect("it was listed");
        let tensors = SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        for (tensor, view) in tensors.iter() {
            let twin = weights.insert(tensor.into(), (view.shape().to_vec(), view.data().to_vec()));
            assert!(twin.is_none(), "{tensor} is stored twice");
        }
    }
    assert!(!weights.is_empty(), "no weights in {}", folder.display());
    weights
}

/// Panics, naming the first tensor that differs.
pub fn assert_bit_equal(got: &Weights, wanted: &Weights) {
    assert_eq!(got.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    for (name, tensor) in wanted {
        // `assert_eq!` would print all the bytes.
        assert!(got[name] == *tensor, "{name} differs");
    }
}
