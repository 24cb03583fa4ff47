import { rangeError, shown, typeError } from '../errors.js'
import { type Handle, type Scores, native } from '../native.js'
import { checkOptions, flag, number, whole } from '../options.js'
import { Tensor, type TensorInput, plainInput } from '../tensor.js'
import { call, inPlace, one, two } from './call.js'

export interface FlashAttentionOptions {
  /** Query i sees keys j ≤ i + sk − sq: the last query sees all of them. */
  causal?: boolean
  /**
   * [left, right]: query i sees keys from i + sk − sq − left to i + sk − sq + right, both included; −1 is no bound. `causal`
   * makes right 0. A "window of w" that counts its keys, as transformers' `sliding_window` does, is [w − 1, 0] here.
   */
  window?: readonly [number, number] | null
  /** c > 0 makes each score c·tanh(score / c); 0, the default, leaves it. */
  softcap?: number
  /** What q·k is multiplied by. Default 1/√d. */
  scale?: number | null
  /** (hq) or (b, hq): takes slope·|i + sk − sq − j| from each score (ALiBi). */
  alibiSlopes?: TensorInput | null
  /** (hq): a logit for each head that joins the softmax's sum and has no value (gpt-oss). */
  sinks?: TensorInput | null
  /** Also return lse: the log of the softmax's sum, natural, the sink included. */
  returnLse?: boolean
}

export interface FlashAttentionVarlenOptions extends FlashAttentionOptions {
  /** (n) int32: only so many of each sequence's keys count. With `blockTable` it may stand for cuSeqlensK. */
  seqUsedK?: TensorInput | null
  /** (n, blocks) int32: key j of sequence r is row j mod page of page blockTable[r, ⌊j / page⌋] of k and v (pages, page, hk, d). */
  blockTable?: TensorInput | null
  /** No sequence has more queries than this: a hint. */
  maxSeqlenQ?: number
  /** No sequence has more keys than this: a hint. */
  maxSeqlenK?: number
}

export interface FlashAttentionWithKvCacheOptions extends FlashAttentionOptions {
  /** (b, s, hk, d): new keys, written into kCache at cacheSeqlens before the queries look. (total, hk, d) with `cuSeqlensQ`. */
  k?: TensorInput | null
  /** (b, s, hk, dv): their values. */
  v?: TensorInput | null
  /** (b) int32, or one number for all: the keys that were in the cache before. All of a slot when absent. */
  cacheSeqlens?: TensorInput | number | null
  /** (positions, r / 2), float32, float16 or bfloat16: rotates the first r elements of k by their place, and of q. */
  rotaryCos?: TensorInput | null
  /** As rotaryCos. */
  rotarySin?: TensorInput | null
  /** Pairs (0, 1), (2, 3), …; else (0, r / 2), (1, r / 2 + 1), …. */
  rotaryInterleaved?: boolean
  /** (b) int32: the slot of each row of q. Negative: an idle row, whose out is 0 and which touches nothing. */
  cacheBatchIdx?: TensorInput | null
  /** (b, blocks) int32: key j of row r is row j mod page of page blockTable[r, ⌊j / page⌋]; pages of any multiple of 16. */
  blockTable?: TensorInput | null
  /** (n + 1) int32: q is packed, (total, hq, d), and row r has the queries from cuSeqlensQ[r] to cuSeqlensQ[r + 1]. */
  cuSeqlensQ?: TensorInput | null
  /** No sequence has more queries than this, with `cuSeqlensQ`: a hint. */
  maxSeqlenQ?: number
  /** (b) int32: so many keys at the beginning of each slot are padding. */
  leftPad?: TensorInput | null
  /** (B, S, hk) or (pages, page, hk) float32, beside an int8 kCache: what each key is multiplied by. New keys set theirs. */
  kScale?: Tensor | null
  /** The same for an int8 vCache. */
  vScale?: Tensor | null
  /** How many parts the keys are cut in; 0, the default, for what is fastest. It changes nothing but rounding. */
  numSplits?: number
}

const scoreOptions = ['causal', 'window', 'softcap', 'scale', 'alibiSlopes', 'sinks', 'returnLse'] as const
const varlenOptions = ['seqUsedK', 'blockTable', 'maxSeqlenQ', 'maxSeqlenK', ...scoreOptions] as const
const cacheOptions = [
  ...([
    'k',
    'v',
    'cacheSeqlens',
    'rotaryCos',
    'rotarySin',
    'rotaryInterleaved',
    'cacheBatchIdx',
    'blockTable',
  ] as const),
  ...(['cuSeqlensQ', 'maxSeqlenQ', 'leftPad', 'kScale', 'vScale', 'numSplits'] as const),
  ...scoreOptions,
] as const
const names = ['q', 'k', 'v', 'alibiSlopes', 'sinks']
const varlenNames = ['q', 'k', 'v', 'cuSeqlensQ', 'cuSeqlensK', 'seqUsedK', 'blockTable', 'alibiSlopes', 'sinks']
const cacheNames = [
  ...['q', 'kCache', 'vCache', 'k', 'v', 'cacheSeqlens', 'rotaryCos', 'rotarySin', 'cacheBatchIdx', 'blockTable'],
  ...['cuSeqlensQ', 'leftPad', 'kScale', 'vScale', 'alibiSlopes', 'sinks'],
]

type OutAndLse = { out: Tensor; lse: Tensor }

/**
 * Exact attention, softmax(scale·q kᵀ) v, without its matrix of scores (Dao, FlashAttention-2, 2023; `flash_attn_func` of
 * flash-attn). In order: s = scale·q·k; softcap; ALiBi; the mask; softmax with the sink; v.
 *
 * q (b, sq, hq, d), k (b, sk, hk, d), v (b, sk, hk, dv), of one dtype: float32, float16 or bfloat16. hk divides hq, and query
 * head i reads KV head ⌊i·hk/hq⌋: grouped (GQA) and single (MQA) KV heads need no copies. d and dv are multiples of 8 up to
 * 512, and may differ. Any strides, so long as the elements of a head lie side by side: views of one fused qkv projection are
 * read where they are. Returns out (b, sq, hq, dv) of q's dtype; with `returnLse`, `{ out, lse }` with lse (b, hq, sq) float32.
 * A query that sees no key gives 0, and lse −∞ (the sink's logit where there is one). Sums are float32.
 *
 * Errors: ERR_SHAPE, ERR_DTYPE, ERR_DEVICE, ERR_DISPOSED, ERR_OPTION.
 */
export function flashAttention(
  q: TensorInput,
  k: TensorInput,
  v: TensorInput,
  options: FlashAttentionOptions & { returnLse: true },
): OutAndLse
export function flashAttention(
  q: TensorInput,
  k: TensorInput,
  v: TensorInput,
  options?: FlashAttentionOptions & { returnLse?: false },
): Tensor
export function flashAttention(
  q: TensorInput,
  k: TensorInput,
  v: TensorInput,
  options?: FlashAttentionOptions,
): Tensor | OutAndLse
export function flashAttention(
  q: TensorInput,
  k: TensorInput,
  v: TensorInput,
  options: FlashAttentionOptions = {},
): Tensor | OutAndLse {
  checkOptions(options, scoreOptions)
  const scores = scoresOf(options)
  const { alibiSlopes, sinks } = options
  return outputs(
    call(names, 3, [q, k, v, alibiSlopes, sinks], (h) =>
      native.flashAttention(h[0]!, h[1]!, h[2]!, ...scores(h[3], h[4])),
    ),
  )
}

/**
 * `flashAttention` over packed sequences of different lengths (`flash_attn_varlen_func` of flash-attn): the queries of sequence
 * r are rows cuSeqlensQ[r] to cuSeqlensQ[r + 1] of q (total, hq, d), its keys rows cuSeqlensK[r] to cuSeqlensK[r + 1] of
 * k (total, hk, d) and v (total, hk, dv). cuSeqlensQ and cuSeqlensK (n + 1) are int32 and on the device: nothing waits for
 * them. With `blockTable` the keys are in pages, and cuSeqlensK only tells their number; null with `seqUsedK` is as good.
 * Returns out (total, hq, dv), or `{ out, lse }` with lse (hq, total). Rows of q in no sequence give 0.
 *
 * Errors: as `flashAttention`. Offsets that do not ascend from 0 make all of out 0, a seqUsedK or blockTable entry out of
 * range what it concerns; the next read then throws ERR_INDEX.
 */
export function flashAttentionVarlen(
  q: TensorInput,
  k: TensorInput,
  v: TensorInput,
  cuSeqlensQ: TensorInput,
  cuSeqlensK: TensorInput | null | undefined,
  options: FlashAttentionVarlenOptions & { returnLse: true },
): OutAndLse
export function flashAttentionVarlen(
  q: TensorInput,
  k: TensorInput,
  v: TensorInput,
  cuSeqlensQ: TensorInput,
  cuSeqlensK: TensorInput | null | undefined,
  options?: FlashAttentionVarlenOptions & { returnLse?: false },
): Tensor
export function flashAttentionVarlen(
  q: TensorInput,
  k: TensorInput,
  v: TensorInput,
  cuSeqlensQ: TensorInput,
  cuSeqlensK: TensorInput | null | undefined,
  options?: FlashAttentionVarlenOptions,
): Tensor | OutAndLse
export function flashAttentionVarlen(
  q: TensorInput,
  k: TensorInput,
  v: TensorInput,
  cuSeqlensQ: TensorInput,
  cuSeqlensK: TensorInput | null | undefined,
  options: FlashAttentionVarlenOptions = {},
): Tensor | OutAndLse {
  checkOptions(options, varlenOptions)
  const scores = scoresOf(options)
  const maxSeqlenQ = whole(options.maxSeqlenQ, 'maxSeqlenQ', 0)
  const maxSeqlenK = whole(options.maxSeqlenK, 'maxSeqlenK', 0)
  const { seqUsedK, blockTable, alibiSlopes, sinks } = options
  const inputs = [q, k, v, cuSeqlensQ, cuSeqlensK, seqUsedK, blockTable, alibiSlopes, sinks]
  return outputs(
    call(varlenNames, 4, inputs, (h) =>
      native.flashAttentionVarlen(
        ...([h[0]!, h[1]!, h[2]!, h[3]!, h[4], h[5], h[6]] as const),
        ...scores(h[7], h[8]),
        ...([maxSeqlenQ, maxSeqlenK] as const),
      ),
    ),
  )
}

/**
 * Attention over a cache, for generation: one or a few queries a row, a whole prompt, or with `cuSeqlensQ` both in one batch
 * (`flash_attn_with_kvcache` of flash-attn). New keys and values, where given, are rotated and written into the cache in place
 * at cacheSeqlens, and then seen as the others are. All lengths are on the device: nothing waits for them.
 *
 * q (b, sq, hq, d), kCache (B, S, hk, d), vCache (B, S, hk, dv), or with `blockTable` pages (pages, page, hk, d) of a multiple
 * of 16 keys. Row r has slot r, or `cacheBatchIdx`[r]; of it the keys from `leftPad`[r] on, cacheSeqlens[r] of them (counted
 * from the slot's beginning) and the new ones. A query's place is that of the key that is as far from the last: the last query
 * is at the last key. With rotaryCos and rotarySin new keys are rotated by their place, and query i by cacheSeqlens + i if it
 * is causal or has a window, else by cacheSeqlens.
 *
 * Caches have q's dtype, or int8 with `kScale` and `vScale`: new keys are then stored as round(127·x / max|x|) with the scale
 * max|x| / 127, one for each key and head, and multiplied by it as they are read. The cache's rows are kept in place: for a slot
 * that two rows name, what both write is undefined. Returns out (b, sq, hq, dv), or (total, hq, dv) with `cuSeqlensQ`; with
 * `returnLse`, `{ out, lse }`.
 *
 * Errors: as `flashAttention`. A length, slot, page or position outside the cache touches nothing, gives 0, and is ERR_INDEX at
 * the next read.
 */
export function flashAttentionWithKvCache(
  q: TensorInput,
  kCache: Tensor,
  vCache: Tensor,
  options: FlashAttentionWithKvCacheOptions & { returnLse: true },
): OutAndLse
export function flashAttentionWithKvCache(
  q: TensorInput,
  kCache: Tensor,
  vCache: Tensor,
  options?: FlashAttentionWithKvCacheOptions & { returnLse?: false },
): Tensor
export function flashAttentionWithKvCache(
  q: TensorInput,
  kCache: Tensor,
  vCache: Tensor,
  options?: FlashAttentionWithKvCacheOptions,
): Tensor | OutAndLse
export function flashAttentionWithKvCache(
  q: TensorInput,
  kCache: Tensor,
  vCache: Tensor,
  options: FlashAttentionWithKvCacheOptions = {},
): Tensor | OutAndLse {
  checkOptions(options, cacheOptions)
  inPlace(kCache, 'kCache')
  inPlace(vCache, 'vCache')
  const { k, v, rotaryCos, rotarySin, cacheBatchIdx, blockTable, cuSeqlensQ, leftPad, kScale, vScale } = options
  if (kScale !== undefined && kScale !== null) inPlace(kScale, 'kScale')
  if (vScale !== undefined && vScale !== null) inPlace(vScale, 'vScale')
  const scores = scoresOf(options)
  const interleaved = flag(options.rotaryInterleaved, 'rotaryInterleaved')
  const splits = whole(options.numSplits, 'numSplits', 0)
  const maxSeqlenQ = whole(options.maxSeqlenQ, 'maxSeqlenQ', 0)
  const seqlens = lengths(options.cacheSeqlens, cuSeqlensQ ?? q, cuSeqlensQ ? -1 : 0)
  const inputs = [
    ...[q, kCache, vCache, k, v, seqlens, rotaryCos, rotarySin, cacheBatchIdx, blockTable, cuSeqlensQ, leftPad],
    ...[kScale, vScale, options.alibiSlopes, options.sinks],
  ]
  return outputs(
    call(cacheNames, 3, inputs, (h) =>
      native.flashAttentionWithKvCache(
        ...([h[0]!, h[1]!, h[2]!, h[3], h[4], h[5], h[6], h[7], h[8], h[9], h[10], h[11], h[12], h[13]] as const),
        ...scores(h[14], h[15]),
        ...([interleaved, splits, maxSeqlenQ] as const),
      ),
    ),
  )
}

/** The options that all three share, checked, as the addon's last arguments. */
function scoresOf(options: FlashAttentionOptions): (alibi: Handle | undefined, sinks: Handle | undefined) => Scores {
  const causal = flag(options.causal, 'causal')
  const [left, right] = windowOf(options.window)
  const softcap = number(options.softcap, 'softcap', 0)
  const scale = scaleOf(options.scale)
  const lse = flag(options.returnLse, 'returnLse')
  return (alibi, sinks) => [alibi, sinks, causal, left, right, softcap, scale, lse]
}

/** NaN stands for the default. */
function scaleOf(value: unknown): number {
  if (value === undefined || value === null) return NaN
  const scale = number(value, 'scale', NaN)
  if (!Number.isFinite(scale)) throw rangeError('ERR_OPTION', 'scale', 'a finite number', shown(scale))
  return scale
}

function windowOf(value: unknown): readonly [number, number] {
  if (value === undefined || value === null) return [-1, -1]
  const sides: unknown[] = Array.isArray(value) && value.length === 2 ? [value[0], value[1]] : []
  const expected = 'two whole numbers, each from 0 on, or -1 for no bound'
  const [left, right] = sides
  if (typeof left !== 'number' || typeof right !== 'number')
    throw typeError('ERR_OPTION', 'window', expected, shown(value))
  for (const side of [left, right])
    if (!Number.isSafeInteger(side) || side < -1) throw rangeError('ERR_OPTION', 'window', expected, shown(side))
  return [left, right]
}

/** One length for all rows as a tensor's data; `like` has `more` rows fewer than its first dimension. */
function lengths(value: unknown, like: TensorInput, more: number): TensorInput | null | undefined {
  if (typeof value !== 'number') return value as TensorInput | null | undefined
  const n = whole(value, 'cacheSeqlens', 0)
  if (n > 0x7fffffff) throw rangeError('ERR_OPTION', 'cacheSeqlens', 'a whole number of 31 bits', shown(n))
  const { shape } = Tensor.isTensor(like) ? like : plainInput(like, more ? 'cuSeqlensQ' : 'q')
  return new Int32Array(Math.max(0, (shape[0] ?? 0) + more)).fill(n)
}

function outputs(result: Handle | [Handle, Handle]): Tensor | OutAndLse {
  if (!Array.isArray(result)) return one(result)
  const [out, lse] = two(result)
  return { out, lse }
}
