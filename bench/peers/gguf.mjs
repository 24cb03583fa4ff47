// A Mamba or Mamba-2 checkpoint as a GGUF file (version 3), the format that llama.cpp reads: a header of keys and values,
// what each tensor is and where, then the tensors, each on a multiple of 32 bytes. Dimensions are written fastest first.
import { closeSync, openSync, writeSync } from 'node:fs'

const types = { u32: 4, f32: 6, bool: 7, string: 8, array: 9, i32: 5 }
const tensorTypes = { float32: 0, float16: 1 }
const ALIGNMENT = 32

class Bytes {
  parts = []
  push(size, write) {
    const b = Buffer.alloc(size)
    write(b)
    this.parts.push(b)
    return this
  }
  u32 = (x) => this.push(4, (b) => b.writeUInt32LE(x))
  i32 = (x) => this.push(4, (b) => b.writeInt32LE(x))
  u64 = (x) => this.push(8, (b) => b.writeBigUInt64LE(BigInt(x)))
  f32 = (x) => this.push(4, (b) => b.writeFloatLE(x))
  bool = (x) => this.push(1, (b) => b.writeUInt8(x ? 1 : 0))
  string = (x) => {
    const text = Buffer.from(x)
    this.u64(text.length)
    this.parts.push(text)
    return this
  }
  all = () => Buffer.concat(this.parts)
}

/** A vocabulary of bytes and fillers: what a tokenizer must have for the file to load. */
function vocabulary(size) {
  const printable = (b) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255)
  let others = 256
  const tokens = Array.from({ length: 256 }, (_, b) => String.fromCodePoint(printable(b) ? b : others++))
  while (tokens.length < size - 1) tokens.push(`filler ${tokens.length}`)
  return [...tokens.slice(0, size - 1), '<|endoftext|>']
}

/**
 * @param file to write
 * @param shape kind, hidden, layers, vocabulary; and sizes: channels, states, width, rank or heads and groups
 * @param tensors of the Hugging Face checkpoint, float32 and float16
 */
export function writeGguf(file, shape, sizes, tensors) {
  const pairs = []
  const put = (key, type, value) => {
    const b = new Bytes().string(key)
    if (Array.isArray(value)) {
      b.u32(types.array).u32(types[type]).u64(value.length)
      for (const v of value) b[type](v)
    } else {
      b.u32(types[type])[type](value)
    }
    pairs.push(b.all())
  }
  const tokens = vocabulary(shape.vocabulary)
  const end = tokens.length - 1
  const second = shape.kind === 'mamba2'
  const of = (key) => `${shape.kind}.${key}`
  put('general.architecture', 'string', shape.kind)
  put(of('context_length'), 'u32', 1 << 20)
  put(of('embedding_length'), 'u32', shape.hidden)
  put(of('feed_forward_length'), 'u32', 0)
  put(of('attention.head_count'), 'u32', 0)
  put(of('block_count'), 'u32', shape.layers)
  put(of('ssm.conv_kernel'), 'u32', sizes.width)
  put(of('ssm.inner_size'), 'u32', sizes.channels)
  put(of('ssm.state_size'), 'u32', sizes.states)
  put(of('ssm.time_step_rank'), 'u32', second ? sizes.heads : sizes.rank)
  if (second) put(of('ssm.group_count'), 'u32', sizes.groups)
  else put(of('ssm.dt_b_c_rms'), 'bool', false)
  put(of('attention.layer_norm_rms_epsilon'), 'f32', 1e-5)
  put(of('vocab_size'), 'u32', shape.vocabulary)
  put('tokenizer.ggml.model', 'string', 'gpt2')
  put('tokenizer.ggml.pre', 'string', 'gpt-2')
  put('tokenizer.ggml.tokens', 'string', tokens)
  put(
    'tokenizer.ggml.token_type',
    'i32',
    tokens.map((_, i) => (i === end ? 3 : 1)),
  )
  put('tokenizer.ggml.merges', 'string', ['t h', 'h e'])
  put('tokenizer.ggml.bos_token_id', 'u32', end)
  put('tokenizer.ggml.eos_token_id', 'u32', end)

  const stored = []
  const add = (name, dims, from, data = from.data) => stored.push({ name, dims, dtype: from.dtype, data })
  const get = (name) => tensors[`backbone.${name}`]
  const matrix = (name, from) => add(name, [from.shape[1], from.shape[0]], from)
  const vector = (name, from) => add(name, [from.shape[0]], from)
  matrix('token_embd.weight', get('embeddings.weight'))
  vector('output_norm.weight', get('norm_f.weight'))
  matrix('output.weight', get('embeddings.weight'))
  for (let i = 0; i < shape.layers; i++) {
    const at = `layers.${i}.mixer.`
    vector(`blk.${i}.attn_norm.weight`, get(`layers.${i}.norm.weight`))
    matrix(`blk.${i}.ssm_in.weight`, get(`${at}in_proj.weight`))
    const conv = get(`${at}conv1d.weight`)
    add(`blk.${i}.ssm_conv1d.weight`, [sizes.width, conv.shape[0]], conv)
    vector(`blk.${i}.ssm_conv1d.bias`, get(`${at}conv1d.bias`))
    const a = get(`${at}A_log`)
    const negated = a.data.map((x) => -Math.exp(x))
    if (second) {
      // A number a head is a matrix of one column there; the norm has a row for each group.
      vector(`blk.${i}.ssm_dt.bias`, get(`${at}dt_bias`))
      add(`blk.${i}.ssm_a`, [1, sizes.heads], a, negated)
      add(`blk.${i}.ssm_d`, [1, sizes.heads], get(`${at}D`))
      add(`blk.${i}.ssm_norm.weight`, [sizes.channels / sizes.groups, sizes.groups], get(`${at}norm.weight`))
    } else {
      matrix(`blk.${i}.ssm_x.weight`, get(`${at}x_proj.weight`))
      matrix(`blk.${i}.ssm_dt.weight`, get(`${at}dt_proj.weight`))
      vector(`blk.${i}.ssm_dt.bias`, get(`${at}dt_proj.bias`))
      add(`blk.${i}.ssm_a`, [sizes.states, sizes.channels], a, negated)
      vector(`blk.${i}.ssm_d`, get(`${at}D`))
    }
    matrix(`blk.${i}.ssm_out.weight`, get(`${at}out_proj.weight`))
  }

  const aligned = (n) => Math.ceil(n / ALIGNMENT) * ALIGNMENT
  const infos = new Bytes()
  let offset = 0
  for (const t of stored) {
    infos.string(t.name).u32(t.dims.length)
    for (const d of t.dims) infos.u64(d)
    infos.u32(tensorTypes[t.dtype]).u64(offset)
    offset += aligned(t.data.byteLength)
  }
  const header = new Bytes()
  header.parts.push(Buffer.from('GGUF'))
  header.u32(3).u64(stored.length).u64(pairs.length)
  const head = Buffer.concat([header.all(), ...pairs, infos.all()])
  const out = openSync(file, 'w')
  try {
    writeSync(out, Buffer.concat([head, Buffer.alloc(aligned(head.length) - head.length)]))
    for (const { data } of stored) {
      writeSync(out, new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
      writeSync(out, Buffer.alloc(aligned(data.byteLength) - data.byteLength))
    }
  } finally {
    closeSync(out)
  }
}
