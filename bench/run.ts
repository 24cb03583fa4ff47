// npm run bench: measures what is asked for and prints a table, and JSON lines for programs (--json).
import { closeSync, openSync, writeSync } from 'node:fs'
import { debug, device as chooseDevice, setThreads } from '../lib/index.js'
import { UsageError } from '../lib/cli/args.js'
import { watchOutput } from '../lib/cli/output.js'
import { type Bench, type Ceilings, type Letters, memoryOf, type Row } from './bench.js'
import { machineRecord } from './machine.js'
import { effortFor } from './measure.js'
import { help, readOptions } from './options.js'
import { Table } from './table.js'
import { suites } from './suites/index.js'

async function main(args: string[]): Promise<void> {
  watchOutput()
  const options = readOptions(args)
  if (!options) {
    process.stdout.write(help)
    return
  }
  if (options.threads !== undefined) setThreads(options.threads)
  const device = chooseDevice(options.device)
  const file = options.json === undefined ? undefined : options.json === '-' ? 1 : openSync(options.json, 'w')
  const table = new Table(file === 1 ? process.stderr : process.stdout)
  const record = (value: object): void => {
    if (file !== undefined) writeSync(file, JSON.stringify(value) + '\n')
  }

  let measured: Ceilings | undefined
  const bench: Bench = {
    device,
    quick: options.quick,
    effort: effortFor(device, options.quick),
    ceilings: () => (measured ??= measureCeilings(bench)),
    memory: () => (device.type === 'cuda' || options.quick ? memoryOf(bench.ceilings()) : memoryNow(bench)),
    wants: (op: string, letters: Letters) => table.words({ op, ...letters }).includes(options.filter),
    report: (row: Row) => {
      record(row)
      table.row(row)
    },
  }
  try {
    const machine = machineRecord(device)
    record(machine)
    table.machine(machine)
    for (const name of options.suites) await suites[name](bench)
  } finally {
    if (file !== undefined && file !== 1) closeSync(file)
  }
}

function measureCeilings({ device }: Bench): Ceilings {
  const rate = (name: string): number => debug.ceiling(name, device)
  const common = { read: rate('read'), copy: rate('copy'), fma: rate('fma') }
  return device.type === 'cuda' ? { ...common, ex2: rate('ex2'), bf16: rate('bf16') } : common
}

/** By the loop that was the faster one at first. */
function memoryNow({ device, ceilings }: Bench): number {
  return debug.ceiling(ceilings().read < ceilings().copy ? 'copy' : 'read', device)
}

try {
  await main(process.argv.slice(2))
} catch (error) {
  if (!(error instanceof UsageError)) throw error
  process.stderr.write(`${error.message}\n`)
  process.exitCode = 2
}
