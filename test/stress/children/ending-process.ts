// A process that ends in the middle of its work: argv is how.
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { device, embedding, tensor } from '../../../lib/index.js'
import { longScan, manyProducts, sharedArrays } from './work.js'

const held: unknown[] = []
const flood = (): void =>
  void held.push(...manyProducts(10).map((t) => t.data()), longScan().data(), ...sharedArrays(4))

async function workers(mode: string): Promise<void> {
  for (let i = 0; i < 2; i++) {
    const worker = new Worker(fileURLToPath(new URL('./worker.js', import.meta.url)), { workerData: { mode } })
    await once(worker, 'message')
  }
}

const ways: Record<string, () => Promise<void> | void> = {
  exit() {
    flood()
    process.exit(7)
  },
  async 'exit later'() {
    flood()
    await new Promise((resolve) => setTimeout(resolve, 3))
    process.exit(7)
  },
  /** Nothing is waited for, so the process may end with its work undone. */
  end() {
    held.push(...manyProducts(10), longScan())
    process.exitCode = 7
  },
  /** A read that is waited for keeps the process alive, even when nobody keeps the promise. */
  'end after a read'() {
    void manyProducts(3)[2]!
      .data()
      .then(() => (process.exitCode = 7))
  },
  'end after a fence'() {
    manyProducts(3)
    void device()
      .synchronize()
      .then(() => (process.exitCode = 7))
  },
  error() {
    flood()
    throw new Error('on purpose')
  },
  async 'exit with workers'() {
    await workers('kernel')
    flood()
    process.exit(7)
  },
  async 'exit with a blocked worker'() {
    await workers('blocked')
    process.exit(7)
  },
  async 'exit with busy workers'() {
    await workers('busy')
    process.exit(7)
  },
  /** A bad index that nobody handles: one rejection, with its code. */
  'unhandled rejection'() {
    void embedding(tensor([5], { dtype: 'int32' }), [[1]]).data()
  },
  'handled rejection'() {
    embedding(tensor([5], { dtype: 'int32' }), [[1]])
      .data()
      .catch((e: { code: string }) => (process.exitCode = e.code === 'ERR_INDEX' ? 7 : 8))
  },
  interrupted() {
    flood()
    console.log('ready')
    setInterval(() => undefined, 1000)
  },
  'interrupted while it waits'() {
    const out = longScan()
    console.log('ready')
    out.dataSync()
    setInterval(() => undefined, 1000)
  },
  'interrupted and leaving'() {
    process.once('SIGINT', () => process.exit(7))
    flood()
    console.log('ready')
    setInterval(() => undefined, 1000)
  },
}

await ways[process.argv[2]!]!()
