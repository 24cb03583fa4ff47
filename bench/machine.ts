// What a measurement was made on: the first record of every file of results.
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import os from 'node:os'
import { type Device, devices } from '../lib/index.js'
import { version } from '../lib/cli/version.js'

const root = new URL('..', import.meta.url)

function output(command: string, args: string[]): string | undefined {
  try {
    return execFileSync(command, args, { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim()
  } catch {
    return undefined
  }
}

/** The commit, with + where files that are tracked differ from it, results apart. On a machine without the repository: SEQMIX_COMMIT. */
function commit(): string | undefined {
  const head = output('git', ['rev-parse', 'HEAD'])
  if (!head) return process.env.SEQMIX_COMMIT
  return (
    head + (output('git', ['status', '--porcelain', '--untracked-files=no', '--', '.', ':!bench/results']) ? '+' : '')
  )
}

/** A hash of the native sources that the addon was built from. */
function sources(): string | undefined {
  try {
    const stamp = JSON.parse(readFileSync(new URL('build/Release/stamp.json', root), 'utf8')) as { sources?: string }
    return stamp.sources?.slice(0, 12)
  } catch {
    return undefined
  }
}

export function machineRecord(device: Device): Record<string, string | number | undefined> {
  const cpu = devices().find((d) => d.name === 'cpu')
  const gpu = device.type === 'cuda' ? device.info : undefined
  return {
    case: 'machine',
    device: device.name,
    processor: cpu?.processor,
    cpus: os.availableParallelism(),
    target: device.info.target,
    threads: device.type === 'cpu' ? device.info.threads : undefined,
    gpu: gpu?.processor,
    sms: gpu?.threads,
    driver: gpu
      ? output('nvidia-smi', ['--query-gpu=driver_version', '--format=csv,noheader'])?.split('\n')[0]
      : undefined,
    memory: device.info.memory,
    load: Number(os.loadavg()[0]!.toFixed(2)),
    node: process.version,
    seqmix: version(),
    commit: commit(),
    sources: sources(),
    date: new Date().toISOString().slice(0, 19) + 'Z',
  }
}
