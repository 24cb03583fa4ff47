#!/usr/bin/env node
// npx seqmix COMMAND: finds the command, and turns whatever comes out of it into one line and an exit code:
// 0 done, 1 it failed, 2 it was called wrongly, 130 interrupted.

import { suggest, UsageError } from './args.js'
import { ClosedOutput, watchOutput, write } from './output.js'
import { version } from './version.js'

interface Command {
  readonly summary: string
  readonly load: () => Promise<{ help: string; run(args: string[]): Promise<number> }>
}

// Loaded when called: --help should not load the addon.
const COMMANDS: Readonly<Record<string, Command>> = {
  info: { summary: 'what this machine offers, and why not where it does not', load: () => import('./info.js') },
  generate: { summary: 'continue a text with a model', load: () => import('./generate.js') },
}

function help(): string {
  const lines = Object.entries(COMMANDS).map(([name, { summary }]) => `  ${name.padEnd(10)}${summary}`)
  return `Usage: seqmix COMMAND [options]\n\n${lines.join('\n')}\n\nseqmix COMMAND --help tells a command's options; seqmix --version the version.\n`
}

async function run(args: string[]): Promise<number> {
  const [name, ...rest] = args
  if (name === undefined || name === '--help' || name === '-h' || name === 'help') {
    await write(help())
    return name === undefined ? 2 : 0
  }
  if (name === '--version' || name === '-v') {
    await write(`${version()}\n`)
    return 0
  }
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name]! : undefined
  if (!command) {
    const names = Object.keys(COMMANDS)
    throw new UsageError(`unknown command '${name}'${suggest(name, names) || `; commands are ${names.join(', ')}`}`)
  }
  const loaded = await command.load()
  if (rest.includes('--help') || rest.includes('-h')) {
    await write(loaded.help)
    return 0
  }
  return loaded.run(rest)
}

watchOutput()
try {
  process.exitCode = await run(process.argv.slice(2))
} catch (error) {
  if (!(error instanceof ClosedOutput)) {
    const { message, stack } = error as Error
    process.stderr.write(`seqmix: ${process.env.SEQMIX_DEBUG ? (stack ?? message) : message}\n`)
    process.exitCode = error instanceof UsageError ? 2 : 1
  }
}
