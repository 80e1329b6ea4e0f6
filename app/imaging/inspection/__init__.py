"""Looks at the bytes of a file before a decoder does: what would cost more than its picture is left out, or refused.

Each module has a function for one format, `(data, max_pixels) -> data`; `app.imaging.formats` lists them all. It
returns the file as a decoder may read it: with the same first picture, and without most of what is no part of it.
Colour profiles, texts, comments, thumbnails and later frames are left out, so that they cost nothing however many they
are. What says which way up the picture is stays.

It raises `TooManyPixels` where a header, of the file or of a coded picture in it, claims more than `max_pixels`, and
`ImageUnreadable` where the file is cut short or would take a decoder more work than pictures do.
"""
