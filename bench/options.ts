// What `npm run bench` can be told.
import {
  type OptionSpec,
  type Values,
  UsageError,
  describeOptions,
  numberOption,
  parseOptions,
  suggest,
} from '../lib/cli/args.js'
import { type SuiteName, suiteNames } from './suites/index.js'

const specs = {
  device: { type: 'string', value: 'NAME', help: 'cpu, cuda or cuda:0 (the best there is)' },
  op: {
    type: 'string',
    multiple: true,
    value: 'NAME',
    help: `${suiteNames.join(', ')}; may be repeated (all of them)`,
  },
  threads: { type: 'string', value: 'N', help: 'threads of the CPU (all of them)' },
  filter: { type: 'string', value: 'TEXT', help: "only cases whose line in the table has TEXT in it, e.g. 'L=2048'" },
  json: { type: 'string', value: 'FILE', help: 'write one JSON line a case to FILE, or to standard output for -' },
  quick: { type: 'boolean', help: 'fewer repeats and fewer cases: to see that it works' },
  help: { type: 'boolean', help: 'print this' },
} as const satisfies Record<string, OptionSpec>

export interface Options {
  readonly device: string | undefined
  readonly suites: readonly SuiteName[]
  readonly threads: number | undefined
  readonly filter: string
  readonly json: string | undefined
  readonly quick: boolean
}

export const help = `Measures seqmix on this machine.

  npm run bench -- [options]
  node --import tsx bench/run.ts [options]      where there is no npm

${describeOptions(specs)}

Times are medians after warm-up. "floor" is the share of the floor: the time that the fewest bytes and operations take at
the rates that this machine reached in the same run, over the time measured; the CPU's memory is measured again beside each
case that it decides. It passes 100% where data comes from a cache.
`

/** @throws UsageError for what it does not know, naming the nearest that it does; undefined when only help is wanted */
export function readOptions(args: string[]): Options | undefined {
  const values: Values = parseOptions(args, specs)
  if (values.help) return undefined
  const wanted = (values.op as string[] | undefined) ?? []
  for (const name of wanted) {
    if (!(suiteNames as readonly string[]).includes(name))
      throw new UsageError(`--op: expected ${suiteNames.join(', ')}, got '${name}'${suggest(name, suiteNames)}`)
  }
  const threads = numberOption(values, 'threads', 'whole')
  if (threads !== undefined && (threads < 1 || threads > 1024))
    throw new UsageError(`--threads: expected a whole number from 1 to 1024, got ${threads}`)
  return {
    device: values.device as string | undefined,
    suites: suiteNames.filter((name) => wanted.length === 0 || wanted.includes(name) || needed(name, wanted)),
    threads,
    filter: (values.filter as string | undefined) ?? '',
    json: values.json as string | undefined,
    quick: values.quick === true,
  }
}

/** Suites with floors need the ceilings. */
function needed(name: SuiteName, wanted: readonly string[]): boolean {
  return name === 'ceilings' && wanted.some((other) => other !== 'call')
}
