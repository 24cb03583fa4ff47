// config.json and generation_config.json: read, and every value checked where it is used.

import { readFile } from 'node:fs/promises'
import { join } from 'node:path'

import { damaged } from '../checkpoint/format.js'

/** A config.json, or an object in one, and which file it came from. */
export class ConfigFile {
  constructor(
    readonly file: string,
    readonly values: Readonly<Record<string, unknown>>,
    /** what its names begin with in messages: of an object in a file, that one's name and a point */
    private readonly prefix = '',
  ) {}

  /** The object under a name; one without values where there is none. */
  part(name: string): ConfigFile {
    const value = this.values[name] ?? {}
    if (!isObject(value)) throw this.wrong(name, 'an object')
    return new ConfigFile(this.file, value, `${this.prefix}${name}.`)
  }

  /** A whole number from 1 to max. */
  count(name: string, fallback?: number, max = 2 ** 31 - 1): number {
    const value = this.values[name] ?? fallback
    if (Number.isSafeInteger(value) && (value as number) > 0 && (value as number) <= max) return value as number
    throw this.wrong(name, `a whole number from 1 to ${max}`)
  }

  /** A finite number above zero. */
  positive(name: string, fallback: number): number {
    const value = this.values[name] ?? fallback
    if (typeof value === 'number' && Number.isFinite(value) && value > 0) return value
    throw this.wrong(name, 'a number above 0')
  }

  /** `count`, where null means that there is none. */
  countOrNull(name: string, fallback: number): number | null {
    return this.values[name] === null ? null : this.count(name, fallback)
  }

  /** `positive`, where null means that there is none. */
  positiveOrNull(name: string, fallback: number): number | null {
    return this.values[name] === null ? null : this.positive(name, fallback)
  }

  /** A list of strings, or nothing. */
  texts(name: string): readonly string[] | undefined {
    const value = this.values[name] ?? undefined
    if (value === undefined || (Array.isArray(value) && value.every((v) => typeof v === 'string')))
      return value as string[] | undefined
    throw this.wrong(name, 'a list of strings')
  }

  flag(name: string, fallback: boolean): boolean {
    const value = this.values[name] ?? fallback
    if (typeof value === 'boolean') return value
    throw this.wrong(name, 'true or false')
  }

  text(name: string, fallback?: string): string {
    const value = this.values[name] ?? fallback
    if (typeof value === 'string') return value
    throw this.wrong(name, 'a string')
  }

  /** Two numbers, the lower first; either may be infinite. */
  range(name: string, fallback: readonly [number, number]): readonly [number, number] {
    const value = this.values[name] ?? fallback
    const [low, high]: unknown[] = Array.isArray(value) && value.length === 2 ? [value[0], value[1]] : []
    if (typeof low === 'number' && typeof high === 'number' && low <= high) return [low, high]
    throw this.wrong(name, 'two numbers, the lower first')
  }

  /** A token id, a list of them, or nothing. */
  ids(name: string): number[] | undefined {
    const value = this.values[name]
    if (value === undefined || value === null) return undefined
    const list: unknown[] = Array.isArray(value) ? value : [value]
    if (list.every((id) => Number.isSafeInteger(id))) return list as number[]
    throw this.wrong(name, 'a token id or a list of them')
  }

  private wrong(name: string, expected: string): Error {
    const got = JSON.stringify(this.values[name]) ?? 'nothing'
    return damaged(this.file, `${this.prefix}${name}: expected ${expected}, got ${got}`)
  }
}

/**
 * Reads a JSON object of a model's directory.
 *
 * @returns undefined where there is no such file and it is not `required`
 * @throws SeqmixError ERR_CHECKPOINT where it is required and missing, cannot be read, or is no JSON object
 */
export async function readConfig(dir: string, name: string, required: true): Promise<ConfigFile>
export async function readConfig(dir: string, name: string, required: false): Promise<ConfigFile | undefined>
export async function readConfig(dir: string, name: string, required: boolean): Promise<ConfigFile | undefined> {
  const file = join(dir, name)
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (cause) {
    if (!required && (cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw damaged(file, `cannot be read: ${(cause as Error).message}`, cause)
  }
  let value: unknown
  try {
    value = parse(text)
  } catch (cause) {
    throw damaged(file, `is not JSON: ${(cause as Error).message}`, cause)
  }
  if (!isObject(value)) throw damaged(file, 'expected a JSON object')
  return new ConfigFile(file, value)
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

const NUMBERS: Readonly<Record<string, number>> = { Infinity, '-Infinity': -Infinity, NaN }

// JSON has no number for infinity. Python writes it all the same, as a word; transformers since its version 5 writes
// {"__float__": "Infinity"}. Both are read.
function parse(text: string): unknown {
  const words = /"(?:[^"\\]|\\.)*"|-?Infinity|NaN/g
  const plain = text.replace(words, (word) => (word.startsWith('"') ? word : `{"__float__":"${word}"}`))
  return JSON.parse(plain, (_, value: unknown) => {
    const word = isObject(value) ? value.__float__ : undefined
    return typeof word === 'string' && Object.hasOwn(NUMBERS, word) ? NUMBERS[word] : value
  })
}
