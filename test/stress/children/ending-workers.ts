// Starts workers, ends them in the middle of their work, and goes on computing itself: argv is mode, rounds, workers at once.
// Prints `ok` when the main thread's results stayed right and every worker ended as it should.
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { memory } from '../../../lib/index.js'
import { collected, computation } from './work.js'

const [mode, rounds, width] = process.argv.slice(2) as [string, string, string]
const expectedCode = { exits: 5, ends: 0, compute: 0 }[mode] ?? 1
const own = await computation(7)
await collected()
const before = memory()

async function one(round: number): Promise<void> {
  const worker = new Worker(fileURLToPath(new URL('./worker.js', import.meta.url)), { workerData: { mode } })
  const exit = new Promise<number>((resolve) => worker.once('exit', resolve))
  const failed = new Promise<Error>((resolve) => worker.once('error', resolve))
  const said = await Promise.race([new Promise((resolve) => worker.once('message', resolve)), failed])
  if (said instanceof Error && mode !== 'uncaught') throw said
  if (mode === 'compute') {
    if (said !== own) throw new Error(`a worker got ${String(said)}, the main thread ${own}`)
  } else if (!['exits', 'ends', 'uncaught'].includes(mode)) {
    await new Promise((resolve) => setTimeout(resolve, (round * 7) % 23))
    await worker.terminate()
  }
  const code = await exit
  if (code !== expectedCode) throw new Error(`exit code ${code}, expected ${expectedCode}`)
}

let next = 0
const lane = async (): Promise<void> => {
  while (next < Number(rounds)) {
    await one(next++)
    if ((await computation(7)) !== own) throw new Error('the main thread got other bits')
  }
}
await Promise.all(Array.from({ length: Number(width) }, lane))
await collected()
const after = memory()
if (JSON.stringify(after) !== JSON.stringify(before)) {
  throw new Error(`memory() was ${JSON.stringify(before)} and is ${JSON.stringify(after)}`)
}
console.log('ok')
