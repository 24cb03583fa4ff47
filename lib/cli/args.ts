// Command-line options: parsed by node:util, checked here, so that every mistake is answered with what was expected.

import { parseArgs } from 'node:util'

import { nearest } from '../options.js'

/** A mistake in how the command was called: printed without more ado, exit code 2. */
export class UsageError extends Error {}

export interface OptionSpec {
  readonly type: 'string' | 'boolean'
  /** may be given several times */
  readonly multiple?: boolean
  /** name of its value in the help */
  readonly value?: string
  readonly help: string
}

export type Values = Record<string, string | boolean | string[] | undefined>

/**
 * @param args what follows the command's name
 * @throws UsageError for an unknown option (naming the nearest), a value that is missing or not wanted, and words that
 *   belong to no option
 */
export function parseOptions(args: string[], specs: Readonly<Record<string, OptionSpec>>): Values {
  const options = Object.fromEntries(
    Object.entries(specs).map(([name, { type, multiple }]) => [name, { type, multiple: multiple ?? false }]),
  )
  const { values, tokens } = parseArgs({ args, options, strict: false, allowPositionals: true, tokens: true })
  const seen = new Set<string>()
  for (const token of tokens) {
    if (token.kind === 'option-terminator') continue
    if (token.kind === 'positional') throw new UsageError(`unexpected argument '${token.value}'`)
    const spec = Object.hasOwn(specs, token.name) ? specs[token.name] : undefined
    if (!spec) throw new UsageError(`unknown option ${token.rawName}${suggest(token.name, Object.keys(specs), '--')}`)
    if (seen.has(token.name) && !spec.multiple) throw new UsageError(`${token.rawName}: given twice`)
    seen.add(token.name)
    if (spec.type === 'boolean' && token.value !== undefined) throw new UsageError(`${token.rawName}: takes no value`)
    if (spec.type === 'string') checkValue(token.rawName, token.value, token.inlineValue, specs)
  }
  return values as Values
}

function checkValue(
  name: string,
  value: string | undefined,
  inline: boolean | undefined,
  specs: Readonly<Record<string, OptionSpec>>,
): void {
  if (value === undefined) throw new UsageError(`${name}: expected a value`)
  const swallowed = !inline && value.startsWith('--') && Object.hasOwn(specs, value.slice(2).split('=')[0]!)
  if (swallowed)
    throw new UsageError(`${name}: expected a value, got the option ${value} (${name}=${value} if that is meant)`)
}

/** A number option's value. */
export function numberOption(values: Values, name: string, kind: 'whole' | 'number'): number | undefined {
  const text = values[name]
  if (text === undefined) return undefined
  const pattern = kind === 'whole' ? /^\d+$/ : /^\d*\.?\d+(e[-+]?\d+)?$/i
  if (typeof text !== 'string' || !pattern.test(text)) {
    throw new UsageError(
      `--${name}: expected ${kind === 'whole' ? 'a whole number' : 'a number from 0 on'}, got '${String(text)}'`,
    )
  }
  return Number(text)
}

/** `; did you mean --prompt?`, or nothing where no name is near. */
export function suggest(wrong: string, names: readonly string[], prefix = ''): string {
  const meant = names.find((name) => wrong.length > 1 && name.startsWith(wrong)) ?? nearest(wrong, names)
  return meant ? `; did you mean ${prefix}${meant}?` : ''
}

/** The options' part of a help text. */
export function describeOptions(specs: Readonly<Record<string, OptionSpec>>): string {
  const lines = Object.entries(specs).map(
    ([name, spec]) => [`--${name}${spec.value ? ` ${spec.value}` : ''}`, spec.help] as const,
  )
  const width = Math.max(...lines.map(([left]) => left.length))
  return lines.map(([left, help]) => `  ${left.padEnd(width)}  ${help}`).join('\n')
}
