// A worker at work, until somebody ends it. What it does is named by workerData; it says 'ready' once it is at it.
import { parentPort, workerData } from 'node:worker_threads'
import { add, device, silu, tensor, topk, zeros } from '../../../lib/index.js'
import { computation, longScan, manyProducts, product, sharedArrays } from './work.js'

const port = parentPort!
const ready = (): void => port.postMessage('ready')
const never = new Promise(() => undefined)
const stay = setInterval(() => undefined, 1000)
const held: unknown[] = []

const modes: Record<string, () => Promise<void> | void> = {
  /** Mid-kernel, with a read pending. */
  async kernel() {
    const pending = longScan().data()
    ready()
    await pending
    await never
  },
  /** Mid-kernel, the thread itself waiting in native code. */
  blocked() {
    const out = longScan()
    ready()
    out.dataSync()
  },
  /** A long queue, reads pending between its ops, synchronize() pending too. */
  async queue() {
    for (const t of manyProducts()) if (held.length < 60) held.push(t, t.data(), device().synchronize())
    ready()
    await never
  },
  /** Ops, errors, reads and collections as fast as they go: the end may come inside any native call. */
  async busy() {
    ready()
    for (let i = 0; ; i++) {
      const a = add([1, 2], tensor([3, 4]))
      try {
        topk(a, 99)
      } catch {
        // as expected
      }
      a.dataSync()
      const big = zeros([1 << 13])
      held[i % 50] = big.dataSync()
      void a.data()
      if (i % 16 === 0) void device().synchronize()
      if (i % 64 === 0) await a.data()
    }
  },
  /** The same with a thousand promises settling. */
  async promises() {
    ready()
    for (;;) await Promise.all(Array.from({ length: 200 }, () => product().narrow(0, 0, 4).data()))
  },
  /** Graphs that run, one of them new now and then; reads of what they make are pending. */
  async graphs() {
    const state = zeros([1 << 10])
    const step = (x: ReturnType<typeof zeros>) => {
      state.copyFrom(add(silu(x), state))
      return add(state, x)
    }
    const graphs = [0, 1, 2].map((i) => device().capture(step, tensor(new Float32Array(1 << 10).fill(i))))
    ready()
    for (let i = 0; ; i++) {
      const out = graphs[i % 3]!.run(i % 2 ? zeros([1 << 10]) : undefined)
      const pending = out.data()
      if (i % 10 === 0) void state.data()
      if (i % 25 === 0) {
        graphs[i % 3]!.dispose()
        graphs[i % 3] = device().capture(step, state)
      }
      if (i % 16 === 0) await pending
    }
  },
  /** In the middle of a captured function. */
  capturing() {
    const x = zeros([64])
    device()
      .capture(() => {
        ready()
        for (let y = x; ; y = add(silu(y), x)) held[0] = y
      })
      .run()
  },
  /** Arrays over memory of tensors, alive at the end. */
  arrays() {
    held.push(...sharedArrays(), ...manyProducts(50))
    ready()
  },
  /** An error that nobody catches, with work in flight. */
  uncaught() {
    held.push(...manyProducts(100).map((t) => t.data()))
    ready()
    setTimeout(() => {
      throw new Error('on purpose')
    }, 2)
  },
  /** Leaves on its own with work in flight. */
  exits() {
    held.push(...manyProducts(100).map((t) => t.data()), longScan())
    ready()
    process.exit(5)
  },
  /** Comes to its end with work in flight that nobody reads. */
  ends() {
    held.push(...manyProducts(50), ...sharedArrays(), longScan())
    ready()
    clearInterval(stay)
  },
  async compute() {
    port.postMessage(await computation(7))
    clearInterval(stay)
  },
}

const { mode } = workerData as { mode: string }
await modes[mode]!()
