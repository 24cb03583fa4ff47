// A whole Mamba and a whole Mamba-2 beside node-llama-cpp, each in one run: the same random weights in float16, once as a Hugging Face directory and
// once as GGUF; by turns a prompt of 512 tokens and 64 tokens one at a time, and the median of the ratios.
//
//   npm i --ignore-scripts            in this folder, once
//   node --import tsx llama.mjs [--model mamba2-130m] [--threads 2] [--pairs 5] [--weights float16] [--json FILE]
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { LlamaLogLevel, getLlama } from 'node-llama-cpp'
import { device, setThreads } from '../../lib/index.ts'
import { load } from '../../lib/models/index.ts'
import { machineRecord } from '../machine.ts'
import { median } from '../measure.ts'
import { mamba130m, mamba2_130m, mambaSizes, mambaTensors, writeMamba } from '../random-model.ts'
import { writeGguf } from './gguf.mjs'

const { values: options } = parseArgs({
  options: {
    model: { type: 'string', default: '' },
    threads: { type: 'string', default: '2' },
    pairs: { type: 'string', default: '5' },
    weights: { type: 'string', default: 'float16' },
    json: { type: 'string' },
  },
})
const threads = Number(options.threads)
const cpu = device('cpu')
setThreads(threads)
const PROMPT = 512
const DECODED = 64
const pause = () => new Promise((resolve) => setTimeout(resolve, 50))
let seed = 7
const ids = (count) =>
  Array.from({ length: count }, () => ((seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff), seed % 256))

const llama = await getLlama({
  gpu: false,
  build: 'never',
  skipDownload: true,
  maxThreads: threads,
  logLevel: LlamaLogLevel.error,
})
const records = [{ ...machineRecord(cpu), threads, peer: `node-llama-cpp, llama.cpp ${llama.llamaCppRelease.release}` }]

async function measure(name, shape) {
  const dir = mkdtempSync(path.join(tmpdir(), 'seqmix-peers-'))
  try {
    // Ours may store bfloat16; theirs is always float16, which is what it is fast in.
    await writeMamba(dir, shape, options.weights)
    const gguf = path.join(dir, 'model.gguf')
    writeGguf(gguf, shape, mambaSizes(shape), mambaTensors(shape, 'float16'))

    const ours = await load(dir, { device: cpu })
    const model = await llama.loadModel({ modelPath: gguf, useMmap: true })
    const context = await model.createContext({
      contextSize: 4096,
      batchSize: PROMPT,
      sequences: 1,
      threads: { ideal: threads, min: threads },
    })
    const sequence = context.getSequence()

    async function ourPrompt(tokens) {
      const from = performance.now()
      for await (const id of ours.generate(tokens, { maxNewTokens: 1, ignoreEos: true })) void id
      return performance.now() - from
    }
    async function ourDecode() {
      let [count, from] = [0, 0]
      for await (const id of ours.generate(ids(16), { maxNewTokens: DECODED + 1, ignoreEos: true })) {
        void id
        if (count++ === 0) from = performance.now()
      }
      return (performance.now() - from) / DECODED
    }
    async function theirPrompt(tokens) {
      await sequence.clearHistory()
      const from = performance.now()
      await sequence.evaluateWithoutGeneratingNewTokens(tokens)
      return performance.now() - from
    }
    async function theirDecode() {
      await sequence.clearHistory()
      await sequence.evaluateWithoutGeneratingNewTokens(ids(16))
      const tokens = sequence.evaluate([65], { temperature: 0, yieldEogToken: true })
      await tokens.next()
      const from = performance.now()
      for (let i = 0; i < DECODED; i++) await tokens.next()
      const ms = (performance.now() - from) / DECODED
      await tokens.return()
      return ms
    }

    async function compare(what, tokens, mine, theirs) {
      await mine()
      await theirs()
      const pairs = []
      for (let i = 0; i < Number(options.pairs); i++) {
        await pause()
        const a = await mine()
        await pause()
        pairs.push([a, await theirs()])
      }
      const rate = (which) => Number(((1e3 * tokens) / median(pairs.map((p) => p[which]))).toPrecision(4))
      const ratio = Number(median(pairs.map(([a, b]) => b / a)).toPrecision(3))
      const record = {
        case: what,
        weights: options.weights,
        threads,
        ours_tok_s: rate(0),
        peer: 'node-llama-cpp',
        peer_tok_s: rate(1),
        ratio,
        pairs: pairs.length,
      }
      records.push(record)
      console.log(
        `${what.padEnd(32)} ours ${record.ours_tok_s} tokens/s, node-llama-cpp ${record.peer_tok_s}: ${ratio} times as fast`,
      )
    }
    await compare(
      `${name} shape, prefill ${PROMPT}`,
      PROMPT,
      () => ourPrompt(ids(PROMPT)),
      () => theirPrompt(ids(PROMPT)),
    )
    await compare(`${name} shape, decode`, 1, ourDecode, theirDecode)
    await context.dispose()
    await model.dispose()
    ours.dispose()
  } finally {
    rmSync(dir, { recursive: true })
  }
}

for (const [name, shape] of Object.entries({ 'mamba-130m': mamba130m, 'mamba2-130m': mamba2_130m }))
  if (name.includes(options.model)) await measure(name, shape)
if (options.json) writeFileSync(options.json, records.map((r) => JSON.stringify(r) + '\n').join(''))
await llama.dispose()
