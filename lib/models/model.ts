import { rangeError, SeqmixError, shown, typeError } from '../errors.js'
import { scope, type Device, type FloatDType, type Tensor } from '../index.js'
import { ModelCache } from './cache.js'
import { generateRows, type GenerateOptions } from './generate.js'
import { checkIds, type TokenIds } from './ids.js'
import { checkCacheOptions, type CacheOptions, type Network } from './network.js'
import { makePlan } from './plan.js'
import type { DecodeOptions, EncodeOptions, TextTokenizer } from './tokenizer.js'

/** A language model on a device. Made by {@link load}. */
export class LanguageModel {
  /** where the model is and where it computes */
  readonly device: Device
  /** what it computes in, and what logits come in; weights have dtypes of their own */
  readonly dtype: FloatDType
  /** number of weights; tied ones count once */
  readonly parameters: number
  /** bytes of device memory that the weights take */
  readonly bytes: number

  /** @internal */
  constructor(
    private readonly network: Network,
    /** the directory's config.json */
    readonly config: Readonly<Record<string, unknown>>,
    /** the ids that end a sequence, by generation_config.json or else config.json */
    readonly endIds: readonly number[],
    /** undefined where the directory has no tokenizer.json */
    readonly tokenizer: TextTokenizer | undefined,
    private readonly cacheOptions: CacheOptions = {},
  ) {
    this.device = network.device
    this.dtype = network.dtype
    this.parameters = network.parameters
    this.bytes = network.bytes
  }

  /**
   * A cache for sequences that have not begun. It is the caller's to dispose.
   *
   * @param batch number of sequences
   * @param options what layers keep their context in, beside or instead of what load was given. For attention `kind` and its
   *   options: see {@link CacheOptions}. `dtype`: keys and values have that of what the model computes in unless it is said,
   *   the states of scans float32; in 16 bits these take half the memory and time to move, and are rounded at every token
   */
  newCache(batch = 1, options: CacheOptions = {}): ModelCache {
    checkCacheOptions(options)
    if (!Number.isSafeInteger(batch) || batch < 1)
      throw rangeError('ERR_SHAPE', 'batch', 'a whole number from 1 on', shown(batch))
    return scope(() => new ModelCache(this.network.newCaches(batch, { ...this.cacheOptions, ...options })))
  }

  /** A cache from what `cache.save()` returned, on the model's device. */
  restoreCache(bytes: Uint8Array): ModelCache {
    return ModelCache.restore(bytes, this.device)
  }

  /**
   * The logits of every position.
   *
   * @param ids one sequence (number[], Int32Array, BigInt64Array), a batch of one length (number[][]), or int32 or int64
   *   (b, L) as a Tensor
   * @param cache the context before ids, changed into the context after them; without one, ids begin a sequence
   * @returns (b, L, vocabulary) in the model's dtype; b is 1 for one sequence
   * @throws ERR_SHAPE, ERR_DTYPE at the call; ERR_INDEX for an id outside the vocabulary (at the call for ids on the
   *   host, at the next read for a Tensor)
   */
  forward(ids: TokenIds, cache?: ModelCache): Tensor {
    const checked = checkIds(ids, this.network.vocabulary)
    this.checkCache(cache, checked.batch)
    return scope(() => {
      const placed = checked.place(this.device)
      cache?.prepare(placed.shape[1]!) // in all layers, before any of them changes
      const [batch, length] = placed.shape as [number, number]
      if (cache && length === 1) {
        const hidden = this.network.step(placed.reshape([batch]), cache.layers)
        return this.network.head(hidden).reshape([batch, 1, this.network.vocabulary])
      }
      return this.network.head(this.network.body(placed, cache?.layers))
    })
  }

  /**
   * Continues a sequence, id by id.
   *
   * The iterator gives ids until one of them is an end token of the checkpoint or in `stop` (that one is not given), or
   * there are maxNewTokens. Leaving the loop frees everything that was made for it. With `cache`, generation continues
   * the context in it, and afterwards the cache holds ids and every id handed out, ready for the next call.
   *
   * @param ids one sequence (number[], Int32Array, BigInt64Array): the iterator gives numbers. A batch of sequences of
   *   one length (number[][], or a Tensor (b, L)): it gives an array a step, null for a sequence that has ended
   * @throws at the call: ERR_SHAPE (no ids, or sequences of different lengths), ERR_DTYPE, ERR_INDEX, ERR_OPTION; while
   *   iterating: `signal.reason` after an abort
   */
  generate(
    ids: readonly number[] | Int32Array | BigInt64Array,
    options?: GenerateOptions,
  ): AsyncGenerator<number, void, void>
  generate(
    ids: Exclude<TokenIds, readonly number[] | Int32Array | BigInt64Array>,
    options?: GenerateOptions,
  ): AsyncGenerator<(number | null)[], void, void>
  generate(ids: TokenIds, options: GenerateOptions = {}): AsyncGenerator<number | (number | null)[], void, void> {
    const checked = checkIds(ids, this.network.vocabulary)
    const plan = makePlan(options, this.endIds)
    this.checkCache(plan.cache, checked.batch)
    const rows = generateRows(this.network, checked, (batch) => this.newCache(batch), plan)
    return checked.single ? firstOf(rows) : rows
  }

  /** The ids of a text; ERR_UNSUPPORTED where the directory has no tokenizer.json. */
  encode(text: string, options?: EncodeOptions): number[] {
    return this.needTokenizer().encode(text, options)
  }

  /** The text of ids; ERR_UNSUPPORTED where the directory has no tokenizer.json. */
  decode(ids: ArrayLike<number>, options?: DecodeOptions): string {
    return this.needTokenizer().decode(ids, options)
  }

  /** Frees the weights; a second call does nothing. */
  dispose(): void {
    this.network.dispose()
  }

  private needTokenizer(): TextTokenizer {
    if (this.tokenizer) return this.tokenizer
    throw new SeqmixError(
      'ERR_UNSUPPORTED',
      "the model's directory has no tokenizer.json: pass token ids instead of text",
    )
  }

  private checkCache(cache: ModelCache | undefined, batch: number): void {
    if (cache === undefined) return
    if (!(cache instanceof ModelCache)) throw typeError('ERR_OPTION', 'cache', 'what newCache returns', shown(cache))
    if (cache.batch !== batch)
      throw rangeError('ERR_SHAPE', 'cache', `a batch of ${batch} as ids has`, `${cache.batch}`)
  }
}

async function* firstOf(rows: AsyncGenerator<(number | null)[], void, void>): AsyncGenerator<number, void, void> {
  // A single sequence's row is never null: the rows end when all sequences have.
  for await (const row of rows) yield row[0]!
}
