"""TensorFlow's V2 checkpoint format ("tensor bundle"), read and written without TensorFlow.

A checkpoint with the prefix `p` is `p.index` and the shards `p.data-KKKKK-of-NNNNN`. Shards are the plain bytes of
tensors. The index is a sorted table of table keys and protobuf records: the key "" holds a `BundleHeader`, the key of
each tensor a `BundleEntry` that says where its bytes are. A tensor may instead be stored in slices: its entry then
lists them, and each has an entry of its own under a key that encodes the tensor's name and the slice.

Sources, all of TensorFlow (Apache-2.0), from which the format was taken and against which the tests compare:

- `tensorflow/core/util/tensor_bundle/tensor_bundle.{h,cc}` and `core/protobuf/tensor_bundle.proto`: what the records
  mean, masked CRC32C of each entry;
- `third_party/xla/xla/tsl/lib/io/{format,block,block_builder,table_builder}.cc`: the table, which is LevelDB's
  (`doc/table_format.md` there) with blocks of 256 KiB;
- `tensorflow/core/util/saved_tensor_slice_util.cc` and `core/lib/strings/ordered_code.cc`: keys of slices;
- `tensorflow/core/framework/types.proto`: numbers of the dtypes.

The files: `crc` checksums, `dtypes` numbers of types, `encoded` checksums of strings and variants, `table` the table,
`slices` keys of slices, `index` the records.
"""
