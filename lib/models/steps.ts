// One more token of every sequence: ids (b) through the network, and what is picked from the logits.
//
// A step is captured: asking for its ops one by one costs a GPU's launcher more than many a GPU takes to do them, and on the
// CPU takes a processor from those that compute. The first steps are asked for as they are, so that a generation of a few
// tokens pays nothing for a graph (recording costs what asking costs; making the CUDA graph of a large model a few
// milliseconds, while the device is at its first run).

import { argmax, increment, sample, scope, tensor, type Graph, type Tensor } from '../index.js'
import type { ModelCache } from './cache.js'
import type { Plan } from './generate.js'
import type { Network } from './network.js'

// The steps asked for as they are, and the least number of others that a graph is made for.
const DIRECT = 3
const WORTH = 16

export class Steps {
  private graph: Graph<Tensor, Tensor> | undefined
  // The number of the step that the graph runs next: where random numbers are drawn, they are drawn by it.
  private counter: Tensor | undefined

  constructor(
    private readonly network: Network,
    private readonly cache: ModelCache,
    private readonly plan: Plan,
  ) {}

  /**
   * @param ids (b), the ids picked last
   * @param n how many were picked before; rises by one from call to call
   * @returns the next ids (b), on the device
   */
  advance(ids: Tensor, n: number): Tensor {
    if (!this.graph && !this.isWorthIt(n)) return scope(() => this.step(ids, n))
    // A cache that grows leaves the memory that the graph knows.
    const moved = this.cache.prepare(1)
    if (moved || !this.graph) this.capture(ids, n)
    // The graph's own tensor is overwritten by the next run.
    const picked = this.graph!.run(ids).clone()
    this.cache.counted(1)
    return picked
  }

  dispose(): void {
    this.graph?.dispose()
    this.counter?.dispose()
  }

  private isWorthIt(n: number): boolean {
    return n > DIRECT && this.plan.maxNewTokens - n >= WORTH
  }

  private capture(ids: Tensor, n: number): void {
    const { device } = this.network
    this.graph?.dispose()
    this.graph = undefined
    if (this.plan.temperature !== 0) this.counter ??= tensor(BigInt64Array.of(BigInt(n)), { device })
    const { counter } = this
    this.graph = device.capture((current: Tensor) => {
      const picked = this.step(current, counter ?? n)
      if (counter) increment(counter)
      return picked
    }, ids)
  }

  private step(ids: Tensor, n: number | Tensor): Tensor {
    return pick(this.network.head(this.network.step(ids, this.cache.layers)), this.plan, n)
  }
}

/** Logits (b, vocabulary) → ids (b) int32; the logits are freed. */
export function pick(logits: Tensor, plan: Plan, n: number | Tensor): Tensor {
  const { temperature, topK, topP, seed } = plan
  try {
    return temperature === 0 ? argmax(logits) : sample(logits, { temperature, topK, topP, seed, step: n })
  } finally {
    logits.dispose()
  }
}
