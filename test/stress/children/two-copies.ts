// Two copies of the package in one process, and in a worker of it: argv is the second copy's lib/index.js. `same` when both
// load one addon file, `other` when each has its own.
import { fileURLToPath } from 'node:url'
import { Worker, isMainThread, workerData } from 'node:worker_threads'
import * as first from '../../../lib/index.js'

const path = isMainThread ? process.argv[2]! : (workerData as string)
const second = (await import(path)) as typeof first
if (second.Tensor === first.Tensor) throw new Error('there is only one copy')

async function use(copy: typeof first): Promise<void> {
  const x = copy.tensor([[1, 2], [3, 4]]) // prettier-ignore
  const held = [...Array(30).keys()].map(() => copy.linear(copy.zeros([64, 512]), copy.zeros([512, 512])).data())
  const y = copy.linear(x, x)
  const [data] = await Promise.all([y.data(), ...held])
  if (String(data) !== '5,11,11,25') throw new Error(String(data))
  try {
    copy.zeros([2 ** 45])
    throw new Error('nothing was thrown')
  } catch (e) {
    if ((e as { code: string }).code !== 'ERR_OUT_OF_MEMORY' || (e as Error).name !== 'SeqmixError') throw e
  }
}
await Promise.all([use(first), use(second), use(first)])

// A tensor of one copy is no tensor to the other, and is told so.
try {
  second.silu(first.tensor([1]) as never)
  throw new Error('nothing was thrown')
} catch (e) {
  if ((e as { code: string }).code !== 'ERR_DTYPE') throw e
}
if (isMainThread) {
  const worker = new Worker(fileURLToPath(import.meta.url), { workerData: path })
  await new Promise<void>((resolve, reject) => worker.once('error', reject).once('exit', () => resolve()))
  await Promise.all([use(second), use(first)])
  console.log('ok')
}
