// A stale addon that still loads makes tests pass or fail for the wrong reason: they do not begin on one.
import { built, sourcesHash } from '../../scripts/native-options.mjs'

export default function setup(): void {
  const found = built()
  if (!found) throw new Error('the addon is not built: run `npm run build:native`')
  if (found.sources !== sourcesHash()) {
    throw new Error('build/Release was built from other native sources: run `npm run build:native`')
  }
}
