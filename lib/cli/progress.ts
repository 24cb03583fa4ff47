// How far a model is loaded, on stderr: a bar on a terminal, now and then a line elsewhere.

import type { LoadProgress } from '../models/index.js'

const WIDTH = 30

export interface ProgressDisplay {
  update(progress: LoadProgress): void
  /** the last word, when loading is done or has failed */
  end(): void
}

export function showProgress(
  label: string,
  stream: NodeJS.WriteStream,
  now: () => number = () => performance.now(),
): ProgressDisplay {
  return stream.isTTY ? bar(label, stream, now) : lines(label, stream, now)
}

function bar(label: string, stream: NodeJS.WriteStream, now: () => number): ProgressDisplay {
  let drawn = -Infinity
  return {
    update(p) {
      const done = p.tensors === p.totalTensors
      if (!done && now() - drawn < 50) return
      drawn = now()
      const filled = Math.round((p.bytes / p.totalBytes) * WIDTH)
      stream.write(
        `\r\x1b[K${label} [${'='.repeat(filled)}${' '.repeat(WIDTH - filled)}] ${percent(p)}, ${size(p.totalBytes)}`,
      )
    },
    end() {
      if (drawn > -Infinity) stream.write('\r\x1b[K')
    },
  }
}

// The first word after a second: a small model is loaded before anyone could read it.
function lines(label: string, stream: NodeJS.WriteStream, now: () => number): ProgressDisplay {
  let written = now()
  return {
    update(p) {
      if (now() - written < 1000) return
      written = now()
      stream.write(`${label}: ${percent(p)} of ${size(p.totalBytes)}\n`)
    },
    end() {},
  }
}

function percent({ bytes, totalBytes }: LoadProgress): string {
  return `${Math.floor((100 * bytes) / Math.max(1, totalBytes))}%`
}

/** Bytes in decimal units. */
export function size(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  const power = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log10(Math.max(1, bytes)) / 3)))
  const value = bytes / 1000 ** power
  return `${power === 0 ? value : value.toFixed(1)} ${units[power]}`
}
