// Generation: the prompt in pieces, then one token of every sequence at a time.
//
// Ids stay on the device from one step to the next, so a step is put on the queue before the token that it continues
// has been read: the device works while this thread waits for the token, hands it out, and issues the next step. The
// price is one step that nobody asked for where a sequence ends before maxNewTokens. With a cache of the caller's
// that price would show in the cache, so there a step waits until its token is known to be handed out.

import type { Signal } from './signal.js'
import { scope, type Tensor } from '../index.js'
import type { ModelCache } from './cache.js'
import type { CheckedIds } from './ids.js'
import type { Network } from './network.js'
import { Steps, pick } from './steps.js'

/** How to continue a sequence; see `LanguageModel.generate`. */
export interface GenerateOptions {
  /** how many ids to generate at most (256) */
  maxNewTokens?: number
  /** 0 (the default) takes the best id each time; above it, ids are drawn from softmax(logits / temperature) */
  temperature?: number
  /** draw only from the k best ids; 0 (the default) from all */
  topK?: number
  /** draw only from the fewest ids whose probabilities reach this together; 1 (the default) from all */
  topP?: number
  /** of the draw: a seed gives the same ids again, on any device; by default another one each time */
  seed?: number
  /** ids that end a sequence, beside the checkpoint's end tokens */
  stop?: readonly number[]
  /** an abort makes the iterator throw `signal.reason` */
  signal?: Signal
  /** go on past the checkpoint's end tokens (false) */
  ignoreEos?: boolean
  /** a context to continue; changed so that it holds the ids given and every id handed out */
  cache?: ModelCache
}

/** {@link GenerateOptions} with every default filled in. */
export interface Plan {
  readonly maxNewTokens: number
  readonly temperature: number
  readonly topK: number
  readonly topP: number
  readonly seed: number
  readonly ends: ReadonlySet<number>
  readonly signal: Signal | undefined
  readonly cache: ModelCache | undefined
}

// Positions of all sequences together that go through the network at once. Larger pieces are no faster and need more
// memory; between two of them an abort is seen.
const PIECE = 2048

/**
 * @param prompt its ids go to the device when generation begins
 * @yields the next id of each sequence, null for one that has ended
 */
export async function* generateRows(
  network: Network,
  prompt: CheckedIds,
  newCache: (batch: number) => ModelCache,
  plan: Plan,
): AsyncGenerator<(number | null)[], void, void> {
  const { signal, maxNewTokens, ends } = plan
  signal?.throwIfAborted()
  if (maxNewTokens === 0 && !plan.cache) return
  const ids = prompt.place(network.device)
  let cache: ModelCache | undefined
  let steps: Steps | undefined
  let current: Tensor | undefined
  let next: Tensor | undefined
  try {
    cache = plan.cache ?? newCache(prompt.batch)
    steps = new Steps(network, cache, plan)
    const ended = new Array<boolean>(prompt.batch).fill(false)
    next = pick(await prefill(network, ids, cache, signal), plan, 0)
    for (let n = 0; n < maxNewTokens; n++) {
      current = next!
      // Asked for before the next step is queued, or the answer would wait behind it.
      const reading = current.data()
      reading.catch(() => {}) // seen below, unless something throws before
      const ahead = !plan.cache && n + 1 < maxNewTokens
      next = ahead ? steps.advance(current, n + 1) : undefined
      const values = (await abortable(reading, signal)) as Int32Array
      const row = Array.from(values, (id, r) => {
        ended[r] ||= ends.has(id)
        return ended[r] ? null : id
      })
      if (row.every((id) => id === null)) return
      if (plan.cache) next = steps.advance(current, n + 1)
      current.dispose()
      yield row
      signal?.throwIfAborted()
    }
  } finally {
    current?.dispose()
    next?.dispose()
    ids.dispose()
    steps?.dispose()
    if (cache !== plan.cache) cache?.dispose()
  }
}

// The prompt through the network; only its last position goes through the head.
async function prefill(network: Network, ids: Tensor, cache: ModelCache, signal: Signal | undefined): Promise<Tensor> {
  const [batch, length] = ids.shape as [number, number]
  const piece = Math.max(1, Math.floor(PIECE / batch))
  let from = 0
  for (; length - from > piece; from += piece) {
    scope(() => {
      network.body(ids.narrow(1, from, piece), cache.layers)
    })
    await abortable(network.device.synchronize(), signal)
  }
  return scope(() => {
    const hidden = network.body(ids.narrow(1, from, length - from), cache.layers)
    const logits = network.head(hidden.narrow(1, length - from - 1, 1))
    return logits.reshape([batch, network.vocabulary])
  })
}

// A promise's value, or the signal's reason as soon as it aborts.
function abortable<T>(promise: Promise<T>, signal: Signal | undefined): Promise<T> {
  if (!signal) return promise
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason as Error)
    if (signal.aborted) return abort()
    signal.addEventListener('abort', abort, { once: true })
    void promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort))
  })
}
