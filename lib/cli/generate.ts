// seqmix generate: streams a model's continuation of a text to stdout, and how fast it was to stderr.

import { text as readAll } from 'node:stream/consumers'

import { isFloat } from '../dtype.js'
import { setThreads, type FloatDType } from '../index.js'
import { load, type CacheOptions, type LanguageModel, type LoadOptions } from '../models/index.js'
import { describeOptions, numberOption, parseOptions, UsageError, type OptionSpec, type Values } from './args.js'
import { ClosedOutput, write } from './output.js'
import { showProgress, size } from './progress.js'
import { StopText } from './stop-text.js'

const FLOATS = 'float32, float16 or bfloat16'

const OPTIONS: Readonly<Record<string, OptionSpec>> = {
  model: { type: 'string', value: 'DIR', help: 'directory with config.json, model.safetensors and tokenizer.json' },
  prompt: { type: 'string', value: 'TEXT', help: 'the text to continue; - reads it from standard input' },
  'max-new-tokens': { type: 'string', value: 'N', help: 'how many tokens to generate at most (256)' },
  temperature: { type: 'string', value: 'T', help: '0 takes the best token each time (0)' },
  'top-k': { type: 'string', value: 'K', help: 'draw only from the K best tokens (0: from all)' },
  'top-p': { type: 'string', value: 'P', help: 'draw only from the best tokens that have probability P together (1)' },
  seed: { type: 'string', value: 'N', help: 'the same seed draws the same tokens again' },
  stop: { type: 'string', value: 'TEXT', multiple: true, help: 'end before this text; may be given several times' },
  'ignore-eos': { type: 'boolean', help: "go on past the model's end token" },
  device: { type: 'string', value: 'NAME', help: 'cpu, cuda, cuda:1 … (the best there is)' },
  dtype: {
    type: 'string',
    value: 'NAME',
    help: `what to compute in: ${FLOATS} (float32 on the CPU, else as most weights)`,
  },
  weights: {
    type: 'string',
    value: 'NAME',
    help: `what matrices are held in: ${FLOATS} (as the checkpoint stores them)`,
  },
  cache: {
    type: 'string',
    value: 'KIND',
    help: 'what attention keeps keys and values in: contiguous, paged, sliding, sinks or int8',
  },
  window: { type: 'string', value: 'N', help: 'tokens that a token sees with --cache sliding or sinks' },
  threads: { type: 'string', value: 'N', help: 'threads of the CPU (all cores)' },
  json: { type: 'boolean', help: 'print a JSON line for each token, then one with the whole' },
  help: { type: 'boolean', help: 'print this' },
}

export const help = `Usage: seqmix generate --model DIR --prompt TEXT [options]

Continues TEXT with a model and prints the continuation as it comes. Speeds go to standard error.

${describeOptions(OPTIONS)}
`

interface Result {
  text: string
  ids: number[]
  stopped: 'end' | 'length' | 'stop' | 'interrupted'
  /** milliseconds until the first token was there, and from then until the last */
  prefill: number
  decode: number
}

export async function run(args: string[]): Promise<number> {
  const values = parseOptions(args, OPTIONS)
  const dir = required(values, 'model')
  const prompt = required(values, 'prompt')
  const options = readOptions(values)
  // Before anything listens to Ctrl-C, which should end a wait for input at once.
  const text = prompt === '-' ? await readAll(process.stdin) : prompt
  const interrupt = new AbortController()
  const stopListening = onInterrupt(interrupt)
  let model: LanguageModel | undefined
  try {
    const begin = performance.now()
    if (options.threads !== undefined) setThreads(options.threads)
    model = await loadShowing(dir, options.load, interrupt.signal)
    const loaded = performance.now() - begin
    if (!model.tokenizer) throw new Error(`${dir}: has no tokenizer.json, which generate needs to read the prompt`)
    const ids = model.encode(text)
    if (ids.length === 0) throw new UsageError('--prompt: expected at least one token, got an empty text')
    const result = await stream(model, ids, options, interrupt.signal)
    await report(model, ids.length, result, loaded, options.json)
    return result.stopped === 'interrupted' ? 130 : 0
  } catch (error) {
    if (interrupt.signal.aborted && error === interrupt.signal.reason) return 130
    throw error
  } finally {
    stopListening()
    model?.dispose()
  }
}

function cacheOption(values: Values): { cache?: CacheOptions } {
  const window = numberOption(values, 'window', 'whole')
  if (values.cache === undefined && window === undefined) return {}
  const kind = values.cache as CacheOptions['kind'] // load says what it may be
  return { cache: { ...(kind === undefined ? {} : { kind }), ...(window === undefined ? {} : { window }) } }
}

function required(values: Values, name: string): string {
  const value = values[name]
  if (typeof value !== 'string') throw new UsageError(`--${name} is missing (seqmix generate --help)`)
  return value
}

function readOptions(values: Values) {
  const threads = numberOption(values, 'threads', 'whole')
  if (threads === 0) throw new UsageError('--threads: expected a whole number from 1 on, got 0')
  const topP = numberOption(values, 'top-p', 'number')
  if (topP !== undefined && (topP === 0 || topP > 1))
    throw new UsageError('--top-p: expected a number above 0 and up to 1')
  const stop = (values.stop ?? []) as string[]
  if (stop.includes('')) throw new UsageError('--stop: expected a text, got an empty one')
  return {
    threads,
    stop,
    load: {
      device: values.device as string | undefined,
      dtype: floatOption(values, 'dtype'),
      weights: floatOption(values, 'weights'),
      ...cacheOption(values),
    },
    json: values.json === true,
    sampling: {
      maxNewTokens: numberOption(values, 'max-new-tokens', 'whole'),
      temperature: numberOption(values, 'temperature', 'number'),
      topK: numberOption(values, 'top-k', 'whole'),
      topP,
      seed: numberOption(values, 'seed', 'whole'),
      ignoreEos: values['ignore-eos'] === true,
    },
  }
}

// The first Ctrl-C ends generation, the second the process.
function onInterrupt(controller: AbortController): () => void {
  const listener = () => {
    if (controller.signal.aborted) process.exit(130)
    controller.abort(new Error('interrupted'))
  }
  process.on('SIGINT', listener)
  return () => process.off('SIGINT', listener)
}

function floatOption(values: Values, name: string): FloatDType | undefined {
  const value = values[name]
  if (value === undefined || isFloat(value)) return value
  throw new UsageError(`--${name}: expected ${FLOATS}, got '${String(value)}'`)
}

async function loadShowing(dir: string, options: LoadOptions, signal: AbortSignal): Promise<LanguageModel> {
  const progress = showProgress(`loading ${dir}`, process.stderr)
  try {
    return await load(dir, { ...options, signal, onProgress: (p) => progress.update(p) })
  } finally {
    progress.end()
  }
}

async function stream(
  model: LanguageModel,
  prompt: number[],
  { sampling, stop, json }: ReturnType<typeof readOptions>,
  signal: AbortSignal,
): Promise<Result> {
  const decoder = model.tokenizer!.stream({ skipSpecialTokens: true })
  const stopText = new StopText(stop)
  const result: Result = { text: '', ids: [], stopped: 'end', prefill: 0, decode: 0 }
  const show = async (text: string): Promise<void> => {
    result.text += text
    if (text && !json) await write(text)
  }
  const begin = performance.now()
  try {
    for await (const id of model.generate(prompt, { ...sampling, signal })) {
      const at = performance.now() - begin
      if (result.ids.length === 0) result.prefill = at
      result.decode = at - result.prefill
      result.ids.push(id)
      const { show: text, found } = stopText.push(decoder.push(id))
      if (json) await write(`${JSON.stringify({ type: 'token', index: result.ids.length - 1, id, text })}\n`)
      await show(text)
      if (found) {
        result.stopped = 'stop'
        break
      }
    }
  } catch (error) {
    if (error !== signal.reason || error instanceof ClosedOutput) throw error
    result.stopped = 'interrupted'
  }
  if (result.stopped !== 'stop') {
    const last = stopText.push(decoder.flush())
    await show(last.show + (last.found ? '' : stopText.flush()))
  }
  if (result.stopped === 'end' && result.ids.length === (sampling.maxNewTokens ?? 256)) result.stopped = 'length'
  return result
}

async function report(
  model: LanguageModel,
  promptTokens: number,
  result: Result,
  loaded: number,
  json: boolean,
): Promise<void> {
  const { ids, prefill, decode, stopped, text } = result
  const prefillSpeed = prefill > 0 ? (1000 * promptTokens) / prefill : 0
  const decodeSpeed = decode > 0 ? (1000 * (ids.length - 1)) / decode : 0
  if (json) {
    const summary = {
      type: 'summary',
      text,
      stopped,
      device: model.device.name,
      dtype: model.dtype,
      parameters: model.parameters,
      prompt_tokens: promptTokens,
      new_tokens: ids.length,
      load_seconds: loaded / 1000,
      prefill_seconds: prefill / 1000,
      decode_seconds: decode / 1000,
      prefill_tokens_per_second: prefillSpeed,
      decode_tokens_per_second: decodeSpeed,
    }
    await write(`${JSON.stringify(summary)}\n`)
    return
  }
  // Standard output is the text and nothing else, where it is not a terminal.
  if (process.stdout.isTTY) await write('\n')
  else if (process.stderr.isTTY) process.stderr.write('\n')
  const what = `${model.device.name} in ${model.dtype}, ${(model.parameters / 1e6).toFixed(1)} M parameters, ${size(model.bytes)}`
  const speeds = `prefill ${promptTokens} tokens at ${prefillSpeed.toFixed(0)}/s, decode ${ids.length} at ${decodeSpeed.toFixed(0)}/s`
  process.stderr.write(`${what}, loaded in ${(loaded / 1000).toFixed(2)} s; ${speeds}\n`)
}
