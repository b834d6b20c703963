// Reads {"panel": ..., "frames": [...]} on standard input; writes what Grafana's table of that panel shows: [{"name", "type", "values",
// "text", "colour", "hidden"}], with the panel's transformations and overrides applied by Grafana's own code.
import { createRequire } from 'node:module';
import path from 'node:path';

const require = createRequire(path.join(process.argv[2], 'package.json'));
const data = require('@grafana/data');
const { lastValueFrom } = require('rxjs');
globalThis.navigator ??= { languages: ['en'] };
globalThis.window = {}; // Grafana's code asks it which page it is on; there when it is loaded, it would be taken for a browser

data.standardTransformersRegistry.setInit(() =>
  // joinByField stands in it twice, once by its old name.
  [...new Map(Object.values(data.standardTransformers).map((each) => [each.id, each])).values()].map((transformation) => ({
    id: transformation.id, name: transformation.name, transformation: () => Promise.resolve(transformation), editor: () => null,
  }))
);
// The editors of the options are of no interest here, what they do to a field's configuration is.
const plain = (id) => ({
  id, path: id.replace('custom.', ''), name: id, isCustom: id.startsWith('custom.'), editor: () => null, override: () => null,
  process: (value) => value, shouldApply: () => true, settings: {},
});
const standard = ['unit', 'min', 'max', 'decimals', 'displayName', 'noValue', 'color', 'thresholds', 'mappings', 'links'].map(plain);
data.standardFieldConfigEditorRegistry.setInit(() => standard);
const options = new data.Registry(() => [...standard, ...['custom.cellOptions', 'custom.width', 'custom.hidden'].map(plain)]);

const text = await new Promise((resolve) => {
  let all = '';
  process.stdin.on('data', (chunk) => (all += chunk));
  process.stdin.on('end', () => resolve(all));
});
const { panel, frames } = JSON.parse(text);
const context = { interpolate: (value) => value };
const transformed = await lastValueFrom(data.transformDataFrame(panel.transformations, frames.map(data.toDataFrame), context));
const shown = data.applyFieldOverrides({
  data: transformed, fieldConfig: panel.fieldConfig, replaceVariables: (value) => value, theme: data.createTheme(), timeZone: 'utc',
  fieldConfigRegistry: options,
});
const columns = shown.flatMap((frame) =>
  frame.fields.map((field) => {
    const display = field.display ?? data.getDisplayProcessor({ field, theme: data.createTheme(), timeZone: 'utc' });
    const cells = Array.from(field.values, (value) => display(value));
    return {
      name: data.getFieldDisplayName(field, frame, shown), type: field.type, values: Array.from(field.values),
      text: cells.map((cell) => data.formattedValueToString(cell)), colour: cells.map((cell) => cell.color ?? null),
      hidden: Boolean(field.config.custom?.hidden),
    };
  })
);
process.stdout.write(JSON.stringify(columns));
