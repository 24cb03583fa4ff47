// seqmix info: what this machine offers, and for what it does not, why.

import { devices, type DeviceInfo } from '../index.js'
import { describeOptions, parseOptions, type OptionSpec } from './args.js'
import { write } from './output.js'
import { size } from './progress.js'
import { version } from './version.js'

const OPTIONS: Readonly<Record<string, OptionSpec>> = {
  json: { type: 'boolean', help: 'print JSON' },
  help: { type: 'boolean', help: 'print this' },
}

export const help = `Usage: seqmix info [options]

Prints what this machine offers to seqmix: every device, and for each that is off, why.

${describeOptions(OPTIONS)}
`

// What changes how seqmix runs; shown where set, since it explains what the rest says.
const VARIABLES = ['SEQMIX_DEVICE', 'SEQMIX_CPU_TARGET', 'SEQMIX_CUDA', 'CUDA_VISIBLE_DEVICES']

export async function run(args: string[]): Promise<number> {
  const values = parseOptions(args, OPTIONS)
  const facts = {
    seqmix: version(),
    node: process.versions.node,
    napi: process.versions.napi,
    platform: `${process.platform}-${process.arch}`,
    environment: Object.fromEntries(
      VARIABLES.flatMap((name) => (process.env[name] === undefined ? [] : [[name, process.env[name]]])),
    ),
    devices: devices(),
  }
  await write(values.json ? `${JSON.stringify(facts)}\n` : describe(facts))
  return 0
}

function describe(facts: {
  seqmix: string
  node: string
  napi: string | undefined
  platform: string
  environment: object
  devices: DeviceInfo[]
}): string {
  const lines = [
    ['seqmix', facts.seqmix],
    ['node', `${facts.node}, Node-API ${facts.napi}, ${facts.platform}`],
    ...Object.entries(facts.environment).map(([name, value]) => [name, String(value)]),
    ...facts.devices.map((d) => [d.name, describeDevice(d)]),
  ]
  const width = Math.max(...lines.map(([left]) => left!.length))
  return lines.map(([left, right]) => `${left!.padEnd(width)}  ${right}\n`).join('')
}

function describeDevice(d: DeviceInfo): string {
  if (!d.available) return `off: ${d.reason ?? 'for no reason that is known'}`
  const parts = [
    d.processor,
    d.target && (d.name === 'cpu' ? `kernels for ${d.target}` : d.target),
    d.memory === undefined ? undefined : size(d.memory),
    d.threads === undefined ? undefined : `${d.threads} ${d.name === 'cpu' ? 'threads' : 'multiprocessors'}`,
  ]
  return parts.filter((part) => part !== undefined && part !== '').join(', ')
}
