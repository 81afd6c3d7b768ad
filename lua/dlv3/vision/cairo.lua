-- cairo.lua - a canvas with lines, areas and text, through libcairo by FFI. Loaded only where
-- pictures have text.

local ffi = require 'ffi'
local F = require 'dlv3.core.ffi'
local tensor = require 'dlv3.core.tensor'

ffi.cdef [[
typedef struct cairo_surface_t cairo_surface_t;
typedef struct cairo_t cairo_t;
typedef struct { double x_bearing, y_bearing, width, height, x_advance, y_advance; } cairo_text_extents_t;
cairo_surface_t *cairo_image_surface_create(int format, int width, int height);
void cairo_surface_destroy(cairo_surface_t *);
void cairo_surface_flush(cairo_surface_t *);
void cairo_surface_mark_dirty(cairo_surface_t *);
int cairo_surface_status(cairo_surface_t *);
unsigned char *cairo_image_surface_get_data(cairo_surface_t *);
int cairo_image_surface_get_stride(cairo_surface_t *);
cairo_t *cairo_create(cairo_surface_t *);
void cairo_destroy(cairo_t *);
void cairo_set_source_rgba(cairo_t *, double, double, double, double);
void cairo_set_line_width(cairo_t *, double);
void cairo_set_dash(cairo_t *, const double *, int, double);
void cairo_rectangle(cairo_t *, double, double, double, double);
void cairo_move_to(cairo_t *, double, double);
void cairo_line_to(cairo_t *, double, double);
void cairo_stroke(cairo_t *);
void cairo_fill(cairo_t *);
void cairo_save(cairo_t *);
void cairo_restore(cairo_t *);
void cairo_translate(cairo_t *, double, double);
void cairo_rotate(cairo_t *, double);
void cairo_select_font_face(cairo_t *, const char *, int, int);
void cairo_set_font_size(cairo_t *, double);
void cairo_show_text(cairo_t *, const char *);
void cairo_text_extents(cairo_t *, const char *, cairo_text_extents_t *);
void *dlopen(const char *, int);
]]

local found, cairo = pcall(ffi.load, 'cairo.so.2')
if not found then found, cairo = pcall(ffi.load, 'libcairo.so.2') end
if not found then F.raise('text in pictures needs the cairo library: install the package libcairo2') end
-- stays loaded to the end: sanitizers know what fontconfig keeps by the name of its library
ffi.C.dlopen('libcairo.so.2', 1)

local M = {}
local Canvas = {}
Canvas.__index = Canvas

-- A white canvas of width x height pixels.
function M.canvas(width, height)
  local surface = ffi.gc(cairo.cairo_image_surface_create(1, width, height), cairo.cairo_surface_destroy)
  if cairo.cairo_surface_status(surface) ~= 0 then
    F.raise(('a picture of %d x %d can not be made'):format(width, height))
  end
  local self = setmetatable({width = width, height = height, surface = surface,
                             cr = ffi.gc(cairo.cairo_create(surface), cairo.cairo_destroy)}, Canvas)
  cairo.cairo_select_font_face(self.cr, 'sans-serif', 0, 0)
  self:area(0, 0, width, height, {1, 1, 1})
  return self
end

local function color(self, c) cairo.cairo_set_source_rgba(self.cr, c[1], c[2], c[3], c[4] or 1) end

-- Fills a rectangle, in pixels, with a color {r, g, b, a = 1} of numbers from 0 to 1.
function Canvas:area(x, y, w, h, c)
  color(self, c)
  cairo.cairo_rectangle(self.cr, x, y, w, h)
  cairo.cairo_fill(self.cr)
end

-- points: x1, y1, x2, y2, ...
function Canvas:line(points, c, width, dashes)
  color(self, c)
  cairo.cairo_set_line_width(self.cr, width or 1)
  cairo.cairo_set_dash(self.cr, ffi.new('double[2]', dashes or 0, dashes or 0), dashes and 2 or 0, 0)
  for i = 1, #points, 2 do
    if i == 1 then
      cairo.cairo_move_to(self.cr, points[1], points[2])
    else
      cairo.cairo_line_to(self.cr, points[i], points[i + 1])
    end
  end
  cairo.cairo_stroke(self.cr)
end

-- The width of a text in pixels at this size.
function Canvas:text_width(s, size)
  cairo.cairo_set_font_size(self.cr, size)
  local e = ffi.new 'cairo_text_extents_t'
  cairo.cairo_text_extents(self.cr, s, e)
  return e.x_advance
end

-- (x, y) is on the base line; align: 0 left, 0.5 centre, 1 right; turned: read from below.
function Canvas:text(x, y, s, size, c, align, turned)
  local width = self:text_width(s, size)
  color(self, c or {0, 0, 0})
  cairo.cairo_save(self.cr)
  cairo.cairo_translate(self.cr, x, y)
  if turned then cairo.cairo_rotate(self.cr, -math.pi / 2) end
  cairo.cairo_move_to(self.cr, -width * (align or 0), 0)
  cairo.cairo_show_text(self.cr, s)
  cairo.cairo_restore(self.cr)
end

-- Pixels from fn(x, y) -> r, g, b (0..255) at the canvas' upper left.
function Canvas:pixels(width, height, fn)
  cairo.cairo_surface_flush(self.surface)
  local data, stride = cairo.cairo_image_surface_get_data(self.surface),
      cairo.cairo_image_surface_get_stride(self.surface)
  for y = 0, height - 1 do
    local row = data + y * stride
    for x = 0, width - 1 do
      local r, g, b = fn(x, y)
      row[4 * x], row[4 * x + 1], row[4 * x + 2], row[4 * x + 3] = b, g, r, 255
    end
  end
  cairo.cairo_surface_mark_dirty(self.surface)
end

-- The picture as u8 [3,h,w].
function Canvas:tensor()
  cairo.cairo_surface_flush(self.surface)
  local data, stride = cairo.cairo_image_surface_get_data(self.surface),
      cairo.cairo_image_surface_get_stride(self.surface)
  local plane = self.width * self.height
  local bytes = ffi.new('uint8_t[?]', 3 * plane)
  for y = 0, self.height - 1 do
    for x = 0, self.width - 1 do
      local p, at = data + y * stride + 4 * x, y * self.width + x
      bytes[at], bytes[plane + at], bytes[2 * plane + at] = p[2], p[1], p[0]
    end
  end
  return tensor.frombytes(ffi.string(bytes, 3 * plane), {3, self.height, self.width}, {dtype = 'u8'})
end

return M
