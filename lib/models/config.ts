// config.json and generation_config.json: read, and every value checked where it is used.

import { readFile } from 'node:fs/promises'
import { join } from 'node:path'

import { damaged } from '../checkpoint/format.js'

/** A config.json, and which file it came from. */
export class ConfigFile {
  constructor(
    readonly file: string,
    readonly values: Readonly<Record<string, unknown>>,
  ) {}

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

  /** A token id, a list of them, or nothing. */
  ids(name: string): number[] | undefined {
    const value = this.values[name]
    if (value === undefined || value === null) return undefined
    const list: unknown[] = Array.isArray(value) ? value : [value]
    if (list.every((id) => Number.isSafeInteger(id))) return list as number[]
    throw this.wrong(name, 'a token id or a list of them')
  }

  private wrong(name: string, expected: string): Error {
    return damaged(this.file, `${name}: expected ${expected}, got ${JSON.stringify(this.values[name]) ?? 'nothing'}`)
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
    value = JSON.parse(text)
  } catch (cause) {
    throw damaged(file, `is not JSON: ${(cause as Error).message}`, cause)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw damaged(file, 'expected a JSON object')
  return new ConfigFile(file, value as Record<string, unknown>)
}
