// Runs the programs of children/ as processes of their own, as plain JavaScript: lib/ and they are translated (not bundled,
// no types) into a folder of their own under .cmake/, so that starting one costs what starting Node costs.
import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { transformSync } from 'esbuild'

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..')

export interface Ended {
  code: number | null
  signal: NodeJS.Signals | null
  out: string
  err: string
}

export interface ChildOptions {
  /** Of node. */
  flags?: string[]
  env?: Record<string, string>
  /** Called with what the child has printed so far, whenever it prints. */
  onOutput?: (out: string, kill: (signal: NodeJS.Signals) => void) => void
  /** It is killed after so many seconds. */
  seconds?: number
}

function translate(from: string, to: string): void {
  mkdirSync(to, { recursive: true })
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    const source = path.join(from, entry.name)
    if (entry.isDirectory()) translate(source, path.join(to, entry.name))
    else if (entry.name.endsWith('.ts') && !entry.name.endsWith('.test.ts')) {
      const { code } = transformSync(readFileSync(source, 'utf8'), { loader: 'ts', format: 'esm', target: 'es2022' })
      writeFileSync(path.join(to, entry.name.replace(/\.ts$/, '.js')), code)
    }
  }
}

let translated: string | undefined

/** For tests of processes, on a machine that may be busy with others. */
export const patience = { timeout: 120_000 }

/** The folder with lib/ and test/stress/ as JavaScript; removed when this process ends. */
export function scripts(): string {
  if (translated) return translated
  mkdirSync(path.join(root, '.cmake'), { recursive: true })
  const folder = mkdtempSync(path.join(root, '.cmake', 'stress-'))
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
  translate(path.join(root, 'lib'), path.join(folder, 'lib'))
  translate(path.join(root, 'test/stress'), path.join(folder, 'test/stress'))
  return (translated = folder)
}

/** Runs children/`name`.ts with arguments, and tells how it ended. */
export function child(name: string, args: readonly string[], options: ChildOptions = {}): Promise<Ended> {
  const file = path.join(scripts(), 'test/stress/children', `${name}.js`)
  const running = spawn(process.execPath, [...(options.flags ?? []), file, ...args], {
    cwd: root,
    env: { ...process.env, ...options.env, NODE_OPTIONS: '' },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const ended: Ended = { code: null, signal: null, out: '', err: '' }
  const kill = (signal: NodeJS.Signals): void => void running.kill(signal)
  running.stdout.setEncoding('utf8').on('data', (text: string) => {
    ended.out += text
    options.onOutput?.(ended.out, kill)
  })
  running.stderr.setEncoding('utf8').on('data', (text: string) => (ended.err += text))
  const timer = setTimeout(
    () => {
      ended.err += '\n(killed: it took too long)'
      running.kill('SIGKILL')
    },
    (options.seconds ?? 110) * 1000,
  )
  return new Promise((resolve, reject) => {
    running.on('error', reject)
    running.on('close', (code, signal) => {
      clearTimeout(timer)
      resolve({ ...ended, code, signal })
    })
  })
}

/** `count` times, `width` at once. */
export async function times(count: number, width: number, run: (i: number) => Promise<void>): Promise<void> {
  let next = 0
  const lane = async (): Promise<void> => {
    while (next < count) await run(next++)
  }
  await Promise.all(Array.from({ length: width }, lane))
}
