import { copyFileSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

import { describe, expect, test } from 'vitest'

import { temporaryFolder } from '../checkpoint/files.js'
import { directory, golden } from '../models/support.js'
import { finished, seqmix, start } from './run.js'

const fixture = 'test/fixtures/kjv-mamba'
const prompt = 'In the beginning God '
// What was said before was said in float32.
const generate = ['generate', '--model', fixture, '--prompt', prompt, '--dtype', 'float32']

// What the model says first.
async function said(tokens: number): Promise<string> {
  const { greedyIds, promptLength } = await golden('kjv-mamba')
  return Buffer.from(greedyIds.slice(promptLength, promptLength + tokens)).toString()
}

describe('seqmix', () => {
  test('--version, --help', async () => {
    const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string }
    expect(await seqmix(['--version'])).toEqual({ code: 0, stdout: `${version}\n`, stderr: '' })
    const help = await seqmix(['--help'])
    expect(help).toMatchObject({ code: 0, stderr: '' })
    for (const command of ['info', 'generate']) expect(help.stdout).toContain(command)
    const generateHelp = await seqmix(['generate', '--help'])
    for (const option of ['--model DIR', '--prompt TEXT', '--json']) expect(generateHelp.stdout).toContain(option)
  })

  const mistakes: [string[], string][] = [
    [['genrate'], "seqmix: unknown command 'genrate'; did you mean generate?\n"],
    [['dance-wildly'], "seqmix: unknown command 'dance-wildly'; commands are info, generate\n"],
    [['generate', '--promt', 'x'], 'seqmix: unknown option --promt; did you mean --prompt?\n'],
    [['generate', '--prompt', 'x'], 'seqmix: --model is missing (seqmix generate --help)\n'],
    [[...generate, '--max-new-tokens', 'many'], "seqmix: --max-new-tokens: expected a whole number, got 'many'\n"],
    [[...generate, '--weights', 'int8'], "seqmix: --weights: expected float32, float16 or bfloat16, got 'int8'\n"],
    [[...generate, '--dtype', 'float16'], 'seqmix: --dtype: given twice\n'],
  ]
  test.each(mistakes)('%j is a mistake: one line, exit code 2', async (args, stderr) => {
    expect(await seqmix(args)).toEqual({ code: 2, stdout: '', stderr })
  })

  test('a failure is one line and exit code 1, with a stack for those who ask', async () => {
    const args = ['generate', '--model', 'test/nowhere', '--prompt', 'x']
    const failed = await seqmix(args)
    expect(failed).toMatchObject({ code: 1, stdout: '' })
    expect(failed.stderr).toMatch(/^seqmix: test\/nowhere\/config\.json: cannot be read: .*\n$/)
    expect((await seqmix(args, { environment: { SEQMIX_DEBUG: '1' } })).stderr).toMatch(/\n\s+at /)
  })
})

describe('seqmix generate with a model of attention', () => {
  const folder = temporaryFolder()
  const args = ['generate', '--model', folder, '--prompt', 'abc', '--json', '--ignore-eos', '--max-new-tokens', '30']

  test('every kind of cache, and one that there is not', async () => {
    for (const file of ['config.json', 'model.safetensors'])
      copyFileSync(join(directory('llama'), file), join(folder, file))
    copyFileSync(join(fixture, 'tokenizer.json'), join(folder, 'tokenizer.json')) // a token is a byte
    const kinds = [[], ['--cache', 'paged'], ['--cache', 'int8'], ['--cache', 'sinks', '--window', '8']]
    for (const kind of kinds) {
      const { code, stdout } = await seqmix([...args, ...kind])
      expect([kind, code]).toEqual([kind, 0])
      expect(stdout.trim().split('\n')).toHaveLength(31)
    }
    const wrong = await seqmix([...args, '--cache', 'round'])
    expect(wrong).toMatchObject({ code: 1, stdout: '' })
    expect(wrong.stderr).toMatch(/kind: expected one of contiguous, paged, sliding, sinks, int8, got 'round'/)
  })
})

describe('seqmix info', () => {
  test('tells what there is, and why not', async () => {
    const { code, stdout } = await seqmix(['info', '--json'])
    expect(code).toBe(0)
    const facts = JSON.parse(stdout) as {
      seqmix: string
      devices: { name: string; available: boolean; reason?: string }[]
    }
    expect(facts.devices[0]).toMatchObject({ name: 'cpu', available: true })
    for (const d of facts.devices) expect(d.available || (d.reason ?? '').length > 0).toBe(true)
    const plain = await seqmix(['info'])
    expect(plain.code).toBe(0)
    expect(plain.stdout).toMatch(/^seqmix +\d/)
    expect(plain.stdout).toMatch(/^cpu +/m)
  })
})

describe('seqmix generate', () => {
  test('streams text to stdout and speeds to stderr', async () => {
    const { code, stdout, stderr } = await seqmix([...generate, '--max-new-tokens', '40'])
    expect(stdout).toBe(await said(40))
    expect(stderr).toMatch(/prefill 21 tokens at \d+\/s, decode 40 at \d+\/s\n$/)
    expect(code).toBe(0)
  })

  test('reads the prompt from standard input', async () => {
    const args = ['generate', '--model', fixture, '--prompt', '-', '--max-new-tokens', '10', '--threads', '1']
    args.push('--dtype', 'float32')
    expect((await seqmix(args, { input: prompt })).stdout).toBe(await said(10))
    const empty = await seqmix(args)
    expect(empty).toMatchObject({ code: 2, stdout: '' })
    // a slow load has said how far it is
    expect(empty.stderr).toMatch(/(^|\n)seqmix: --prompt: expected at least one token, got an empty text\n$/)
  })

  test('--json prints a line a token and a summary', async () => {
    const { code, stdout } = await seqmix([...generate, '--max-new-tokens', '12', '--json'])
    expect(code).toBe(0)
    const lines = stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>)
    const tokens = lines.slice(0, -1)
    expect(tokens.map((t) => t.type)).toEqual(new Array(12).fill('token'))
    expect(tokens.map((t) => t.text).join('')).toBe(await said(12))
    expect(tokens.map((t) => t.index)).toEqual(tokens.map((_, i) => i))
    expect(lines.at(-1)).toMatchObject({
      type: 'summary',
      text: await said(12),
      stopped: 'length',
      prompt_tokens: 21,
      new_tokens: 12,
    })
  })

  test('--dtype and --weights say what to compute in and what to hold', async () => {
    const args = ['generate', '--model', fixture, '--prompt', prompt, '--max-new-tokens', '3']
    const { code, stdout, stderr } = await seqmix([...args, '--dtype', 'bfloat16', '--weights', 'float16'])
    expect([code, stdout]).toEqual([0, await said(3)])
    expect(stderr).toMatch(/ in bfloat16, 2\.7 M parameters, 5\.5 MB/)
    const json = await seqmix([...args, '--weights', 'float32', '--json'])
    expect(JSON.parse(json.stdout.trimEnd().split('\n').at(-1)!)).toMatchObject({ type: 'summary', dtype: 'float32' })
  })

  test('--stop ends before a text, and sampling follows its seed', async () => {
    const text = await said(60)
    const stop = text.slice(20, 24)
    const stopped = await seqmix([...generate, '--stop', stop])
    expect(stopped.stdout).toBe(text.slice(0, text.indexOf(stop)))
    const sampling = [...generate, '--max-new-tokens', '30', '--temperature', '0.8', '--top-k', '50', '--top-p', '0.9']
    const [a, b, c] = await Promise.all(['1', '1', '2'].map((seed) => seqmix([...sampling, '--seed', seed])))
    expect(a!.stdout).toBe(b!.stdout)
    expect(a!.stdout).not.toBe(c!.stdout)
  })

  test('Ctrl-C ends it with 130', async () => {
    const child = start([...generate, '--max-new-tokens', '1000000', '--ignore-eos'])
    child.stdout!.once('data', () => child.kill('SIGINT'))
    const { code, stderr } = await finished(child)
    expect(code).toBe(130)
    expect(stderr).toMatch(/decode \d+ at/)
    expect(stderr).not.toMatch(/Error|interrupted/)
  })

  test('a reader that goes away ends it quietly', async () => {
    const child = start([...generate, '--max-new-tokens', '1000000', '--ignore-eos'])
    child.stdout!.once('data', () => child.stdout!.destroy())
    const { code, stderr } = await finished(child)
    expect(code).toBe(0)
    expect(stderr.replace(/^loading .*\n/gm, '')).toBe('') // loading for more than a second is told of
  })
})
