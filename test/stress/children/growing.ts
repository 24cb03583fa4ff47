// Does the same things over and over, and prints as JSON how memory grew: argv is what, and how often.
import {
  type Tensor,
  add,
  causalConv1dUpdate,
  device,
  linear,
  memory,
  scope,
  selectiveStateUpdate,
  tensor,
  topk,
  zeros,
} from '../../../lib/index.js'
import { load } from '../../../lib/models/index.js'
import { collected } from './work.js'

const [what, count] = process.argv.slice(2) as [string, string]
const state = zeros([1, 64, 16])
const conv = zeros([1, 64, 3])
const weight = zeros([64, 64])
const constants = { A: zeros([64, 16]), B: zeros([1, 16]), w: zeros([64, 4]) }

function step(x: Tensor): Tensor {
  return scope(() => {
    const a = linear(x, weight, { bias: new Float32Array(64) })
    const b = causalConv1dUpdate(a, conv, constants.w)
    return selectiveStateUpdate(state, b, b, constants.A, constants.B, constants.B)
  })
}

const model = what === 'generations' ? await load('test/fixtures/kjv-mamba') : undefined

const kinds: Record<string, (i: number) => unknown> = {
  /** Five ops, with plain inputs and a scope. */
  ops() {
    const x = zeros([1, 64])
    step(x).dispose()
    x.dispose()
  },
  /** Large results read without a copy, arrays dropped. */
  async reads(i) {
    const t = zeros([16, 1024])
    if (i % 2) t.dataSync()
    else await t.data()
    t.dispose()
  },
  /** Promises that nobody keeps. */
  async 'dropped promises'(i) {
    const t = zeros([16, 1024])
    void t.data()
    t.dispose()
    if (i % 50 === 0) await new Promise(setImmediate)
  },
  /** In-place changes of what was handed out: each takes new memory. */
  async 'handed out'(i) {
    const data = zeros([16, 1024]).copyFrom(state.device.type === 'cpu' ? new Float32Array(16384) : zeros([16, 1024]))
    const held = await data.data()
    data.copyFrom(new Float32Array(16384))
    data.dispose()
    if (i % 100 === 0) await new Promise(setImmediate)
    return held.length
  },
  /** Calls that fail. */
  errors() {
    const x = tensor([[1, 2]])
    for (const run of [() => add(x, [1, 2, 3]), () => topk(x, 5), () => linear(x, [[1]], { bias: [1] })]) {
      try {
        run()
      } catch {
        // as expected
      }
    }
    x.dispose()
  },
  /** Tensors that nobody disposes: the collector's, given a turn of the event loop now and then. */
  async undisposed(i) {
    for (let n = 0; n < 4; n++) zeros([16, 1024]).narrow(0, 0, 3).transpose(0, 1)
    if (i % 20 === 0) await new Promise(setImmediate)
  },
  /** Graphs, run or not, disposed or left to the collector. */
  async graphs(i) {
    const x = zeros([16, 64])
    const graph = device().capture((t: Tensor) => linear(t, weight, { bias: new Float32Array(64) }), x)
    for (let n = 0; n < i % 4; n++) graph.run(x)
    if (i % 3) graph.dispose()
    x.dispose()
    if (i % 20 === 0) await new Promise(setImmediate)
  },
  async generations(i) {
    let n = 0
    for await (const token of model!.generate(new Int32Array([10 + (i % 50), 20, 30]), {
      maxNewTokens: 4,
      temperature: i % 2,
      ignoreEos: true,
    })) {
      n += Number(token) >= 0 ? 1 : 0
      if (i % 10 === 0 && n === 2) break // leaves it half way
    }
  },
}

async function run(n: number): Promise<void> {
  for (let i = 0; i < n; i++) {
    const result = kinds[what]!(i)
    if (result instanceof Promise) await result
  }
  await device().synchronize() // reads still under way hold what they read
  await collected()
}

await run(model ? Number(count) / 5 : Number(count)) // caches fill to what this needs, code is compiled
const before = { ...memory()[state.device.name]!, rss: process.memoryUsage.rss(), heap: process.memoryUsage().heapUsed }
await run(Number(count))
const after = { ...memory()[state.device.name]!, rss: process.memoryUsage.rss(), heap: process.memoryUsage().heapUsed }
const grown = (key: keyof typeof before): number => after[key] - before[key]
console.log(
  JSON.stringify({ tensors: grown('tensors'), bytes: grown('bytes'), rss: grown('rss'), heap: grown('heap') }),
)
model?.dispose()
